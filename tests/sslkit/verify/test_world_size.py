"""The comparison of numbers of ranks: what it detects, and how it describes that."""

from __future__ import annotations

import copy

import pytest
import torch

from sslkit.verify import world_size
from sslkit.verify.trace import KINDS, Step


def step(**kinds: dict[str, torch.Tensor]) -> Step:
    """Return a step with two names of each kind."""
    return {kind: {f"{kind}.a": torch.tensor([[1.0, 2.0]]), f"{kind}.b": torch.ones(3, 2)} for kind in KINDS} | kinds


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_kind_that_differs_is_what_breaks_equality(kind: str) -> None:
    one, other = [step(), step()], [step(), step()]
    for later in KINDS[KINDS.index(kind) :]:
        other[1][later][f"{later}.b"] = torch.full((3, 2), 1.1)
    comparison = world_size.compare_traces(one, other, (1, 2))
    assert comparison.first
    assert (comparison.first.step, comparison.first.kind, comparison.first.name) == (2, kind, f"{kind}.b")
    assert comparison.first.relative == pytest.approx(0.1 / 1.1, rel=1e-3)
    assert comparison.breaking == [comparison.first.component]
    assert [name for name, value in comparison.largest.items() if value] == list(KINDS[KINDS.index(kind) :])


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("forward", "online.backbone.bn1 (BatchNorm2d), call 1", "batch norm statistics"),
        ("forward", "online.backbone.bn1 (SyncBatchNorm), call 1", "batch norm statistics"),
        ("forward", "online.backbone.drop (Dropout), call 1", "random numbers"),
        ("forward", "online.backbone.conv1 (Conv2d), call 1", "the forward pass"),
        ("state", "target.backbone.bn1.running_var", "batch norm statistics"),
        ("state", "objectives.moco.queue", "a queue, centre or other state"),
        ("schedule", "learning rate of group 0", "the learning-rate rule"),
        ("schedule", "target momentum", "the target momentum"),
        ("images", "micro-batch 0", "the data split"),
        ("boxes", "boxes.scene, micro-batch 0", "the sampler"),
        ("terms", "simclr.loss", "gather"),
    ],
)
def test_names_point_to_the_component(kind: str, name: str, words: str) -> None:
    one, other = step(), step()
    one[kind], other[kind] = {name: torch.ones(2, 1)}, {name: torch.zeros(2, 1)}
    comparison = world_size.compare_traces([one], [other], (1, 2))
    assert comparison.breaking[0].startswith(words)


def test_rounding_does_not_count_and_one_image_does() -> None:
    one, other = step(), step()
    other["forward"]["forward.a"] = torch.tensor([[1.0, 2.0 + 1e-6]])
    assert world_size.compare_traces([one], [other], (1, 2)).first is None
    other["images"]["images.a"] = torch.tensor([[1.0, 2.0 + 1e-6]])
    assert world_size.compare_traces([one], [other], (1, 2)).breaking


def test_gradients_that_are_zero_up_to_rounding_do_not_count() -> None:
    one, other = step(), step()
    one["gradients"] = {"weight": torch.ones(1, 2), "bias": torch.full((1, 2), 1e-18)}
    other["gradients"] = {"weight": torch.ones(1, 2), "bias": torch.full((1, 2), -1e-18)}
    assert world_size.compare_traces([one], [other], (1, 2)).first is None


def test_missing_and_non_finite_values_are_differences() -> None:
    for change in (torch.ones(2, 2), torch.full((3, 2), torch.nan), torch.full((3, 2), torch.inf)):
        one, other = step(), step()
        other["forward"]["forward.b"] = change
        assert world_size.compare_traces([one], [other], (1, 2)).first, change
    one, other = step(), step()
    del other["forward"]["forward.b"]
    assert world_size.compare_traces([one], [other], (1, 2)).first
    one["terms"]["terms.b"] = torch.full((3, 2), torch.nan)
    both = copy.deepcopy(one)
    assert world_size.compare_traces([one], [both], (1, 2)).first is None
