"""Activation checkpointing gives the same numbers, updates running statistics once, and saves memory."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sslkit.errors import UsageError
from sslkit.networks.activation_checkpointing import recompute
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions


def block(momentum: float | None = 0.1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU(), nn.Dropout(0.5)
    )


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(block(), block(None), block()), nn.Flatten())


def steps(net: nn.Module, autocast: bool) -> tuple[list[torch.Tensor], int]:
    """Run forward twice and backward once; return outputs, gradients and buffers, and how many numbers were saved."""
    saved = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel()
        return tensor

    torch.manual_seed(1)
    x, y = torch.randn(2, 2, 3, 8, 8)
    with saved_tensors_hooks(count, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = [net(x), net(y)]
    sum(part.float().square().mean() for part in out).backward()
    return [*out, *(p.grad for p in net.parameters()), *net.buffers()], saved


@pytest.mark.parametrize("autocast", [False, True])
def test_it_changes_no_bit_and_saves_memory(autocast):
    plain = backbone()
    saving = copy.deepcopy(plain)
    recompute(saving[1:2])  # the list of blocks, inside its parent
    expected, most = steps(plain, autocast)
    recomputed, fewer = steps(saving, autocast)
    assert all(torch.equal(a, b) for a, b in zip(expected, recomputed, strict=True))
    assert int(saving[1][0][1].num_batches_tracked) == 2
    assert fewer < 0.6 * most


def test_statistics_stay_unchanged_in_eval_mode():
    net = nn.Sequential(nn.Sequential(block(), block()))
    recompute(net)
    net.eval()
    net(torch.randn(2, 4, 8, 8)).sum().backward()
    assert int(net[0][0][1].num_batches_tracked) == 0


def test_without_blocks_there_is_nothing_to_save():
    with pytest.raises(UsageError, match="Linear has no repeated blocks"):
        recompute(nn.Linear(2, 2))


def test_a_run_ends_with_the_same_bits(small_recipe, installed, tmp_path):
    text = recipe_file.parse(small_recipe, "small", "small.toml", ())
    plan, problems = make_plan(recipe_file.check_structure(text)[0], installed)
    assert plan, problems
    ends = []
    for name, saves in (("plain", False), ("saving", True)):
        options = RunOptions(accelerator="cpu", workers=0, checkpoint_activations=saves)
        trainer.train(plan, text, installed, RunFolder(tmp_path / name), options)
        ends.append(torch.load(tmp_path / name / "checkpoints" / "step-00000002.pt", weights_only=False)["model"])
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
