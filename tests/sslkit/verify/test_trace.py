"""Traces of steps, and batch norm over all ranks."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.plugins import Owner, Plugins
from sslkit.training import hardware, step
from sslkit.training.options import RunOptions
from sslkit.verify import trace
from sslkit.verify.world_size import compare_traces
from tests.conftest import Alike, make_module


@pytest.fixture
def traced(plugins: Plugins, recipe_text: str) -> Any:
    """Trace a recipe over the fake plugin's components."""

    def traced(*sets: str, steps: int = 2, whole: bool = False) -> list[trace.Step]:
        text = recipe_file.parse(recipe_text, "dots", "dots.toml", sets)
        recipe, problems = recipe_file.check_structure(text)
        assert recipe, problems
        plan, problems = make_plan(recipe, plugins)
        assert plan, problems
        options = RunOptions(accelerator="cpu", workers=0, monitor_every=0)
        return trace.trace(plan, text, options, steps, whole)[0]

    return traced


def test_every_kind_is_recorded(traced: Any) -> None:
    first, second = traced("target.momentum=0.9")
    assert list(first) == list(trace.KINDS)
    assert all(first[kind] for kind in trace.KINDS)
    assert not second["initial weights"]
    assert first["images"]["micro-batch 0"].shape == (4, 1)
    assert first["boxes"]["boxes.scene, micro-batch 0"].shape == (4, 2)
    assert first["forward"]["online.backbone.net.1 (BatchNorm2d), call 2"].shape == (4, 2)
    assert set(first["terms"]) == {"alike.distance", "loss"}
    assert all(name.startswith("target.") for name in first["target"])


def test_the_same_steps_are_the_same_bits(traced: Any) -> None:
    comparison = compare_traces(traced(), traced(), (1, 1))
    assert comparison.first is None
    assert set(comparison.largest.values()) == {0.0}


@pytest.mark.parametrize(
    ("change", "component"),
    [
        ("optimizer.base_lr=0.4", "the learning-rate rule"),
        ("target.momentum=0.5", "the target momentum"),
        ("seed=4", "the initial weights"),
        ("augment.scene.0.size=32", "the augmentation"),
        ("objectives.alike.factor=2.0", "gather: the objective sees"),
    ],
)
def test_a_change_shows_in_its_component(traced: Any, change: str, component: str) -> None:
    comparison = compare_traces(traced(), traced(change), (1, 2))
    assert comparison.first
    assert comparison.first.component.startswith(component)


def test_dropout_with_other_seeds_is_detected(traced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a second rank would draw."""
    one = traced("backbone.dropout=0.5")
    original = step.seed_all
    monkeypatch.setattr(step, "seed_all", lambda *parts: original(*parts[:-1], parts[-1] + 1))
    comparison = compare_traces(one, traced("backbone.dropout=0.5"), (1, 2))
    assert comparison.first
    assert (comparison.first.name, comparison.first.component) == (
        "online.backbone.net.4 (Dropout), call 1",
        "random numbers: every rank draws its own",
    )


def test_digests_differ_when_rows_are_swapped_or_reversed() -> None:
    rows = torch.arange(12.0).reshape(3, 2, 2)
    digest = trace.digest_rows(rows)
    assert digest.shape == (3, 2)
    assert torch.equal(digest, trace.digest_rows(rows.half()))
    for other in (rows.flip(0), rows.flip(1), -rows, rows + torch.tensor([0, 0, 0, 1e-5]).reshape(2, 2)):
        assert not torch.equal(digest, trace.digest_rows(other))


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm2d, (6, 3, 4, 5)), (nn.BatchNorm1d, (6, 3))])
def test_batch_norm_use_global_batch_norm_ranks_is_batch_norm_of_all_rows(
    norm: type[nn.Module], shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Two ranks have half of the rows each; every rank receives the statistics of the other."""
    torch.manual_seed(0)
    whole = nn.Sequential(norm(3, **options)).double()
    torch.nn.init.normal_(whole[0].weight) if whole[0].affine else None
    parts = [copy.deepcopy(whole) for _ in range(2)]
    for _ in range(2):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(shape, dtype=torch.float64)
        expected = whole(x)
        for number, part in enumerate(parts):
            mine, other = (x.detach().chunk(2)[place] for place in (number, 1 - number))
            trace.use_global_batch_norm(part, TwoRanks(other, number).gather)
            torch.testing.assert_close(part(mine), expected.detach().chunk(2)[number])
        (expected * weight).sum().backward()
    for part in parts:
        for name, value in whole.named_buffers():
            torch.testing.assert_close(dict(part.named_buffers())[name], value, msg=name)
    whole.eval()
    trace.use_global_batch_norm(alone := copy.deepcopy(whole), lambda rows: rows)
    torch.testing.assert_close(alone(x), whole(x))


class TwoRanks:
    """Join the other rank's mean, then its variance, to that of this rank."""

    def __init__(self, other: torch.Tensor, number: int) -> None:
        self.other, self.number = other, number
        self.axes = [0, *range(2, other.dim())]
        self.mean: torch.Tensor | None = None

    def gather(self, row: torch.Tensor) -> torch.Tensor:
        shape = [1, -1, *[1] * (self.other.dim() - 2)]
        other = self.other if self.mean is None else (self.other - self.mean.view(shape)).square()
        theirs = other.mean(self.axes)[None]
        joined = torch.cat([row, theirs] if self.number == 0 else [theirs, row])
        self.mean = joined.mean(0) if self.mean is None else None
        return joined


def test_gradients_pass_through_the_statistics() -> None:
    whole = nn.BatchNorm2d(3).double()
    part = copy.deepcopy(whole)
    trace.use_global_batch_norm(part, lambda rows: rows)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    weight = torch.randn_like(x)
    grads = []
    for norm in (whole, part):
        inputs = x.clone().requires_grad_(True)
        (norm(inputs) * weight).sum().backward()
        grads += [inputs.grad, norm.weight.grad, norm.bias.grad]
    for a, b in zip(grads[:3], grads[3:], strict=True):
        torch.testing.assert_close(a, b)


def test_the_default_precision_is_none_of_the_comparison(traced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on a CPU that is fast at bfloat16 either, nor with a recipe that asks for it."""
    expected = traced("precision=32-true")
    monkeypatch.setattr(hardware, "fast_at_bf16", lambda accelerator="auto": True)
    for precision in ("auto", "bf16-mixed", "16-mixed"):
        comparison = compare_traces(expected, traced(f"precision={precision}"), (1, 1))
        assert comparison.first is None, precision
        assert set(comparison.largest.values()) == {0.0}


class Remembers(Alike):
    """Keep rows in several places that no checkpoint holds."""

    name = "remembers"

    def __init__(self, dims: Any) -> None:
        super().__init__(dims)
        self.register_buffer("centre", torch.zeros(6), persistent=False)
        self.recent: deque[torch.Tensor] = deque()
        self.mean: torch.Tensor | None = None
        self.mask = torch.zeros(1)
        self.counts, self.signs = torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.bool)
        self.table: Any = np.zeros(6)
        self.names = np.array(["not", "numbers"])
        self.register_buffer("unwritten", torch.tensor([float(id(self)), torch.nan]), persistent=False)

    def forward(self, p: torch.Tensor, z: torch.Tensor) -> Any:
        self.centre = z.detach().mean((0, 1))
        self.recent, self.mean = deque([p.detach()[0, 0]]), {"of": [p.detach().mean()]}
        self.mask = torch.eye(len(p))
        self.counts = self.counts + (p.detach() > 0).sum((0, 1))
        self.signs, self.table = self.counts > 3, self.table + p.detach().mean((0, 1)).numpy()
        return super().forward(p, z)


def test_state_in_no_checkpoint_is_compared_and_named(traced: Any, plugins: Plugins) -> None:
    plugins.add(Owner("more", "sslkit-more", "1"), make_module(objectives=[Remembers]))
    one = traced("objectives={remembers={}}")
    other = copy.deepcopy(one)
    names = [name for name in one[0]["state"] if name.endswith(trace.UNSAVED)]
    places = {name.partition("[")[0].rpartition(".")[2] for name in names}
    assert places == {"centre", "recent", "mean", "mask", "counts", "signs", "table"}
    for name in names:
        other[0]["state"] = {**one[0]["state"], name: one[0]["state"][name] + 1}
        comparison = compare_traces(one, other, (1, 2))
        assert comparison.first
        assert comparison.first.name == name
        assert "no checkpoint holds it" in comparison.first.component
        assert name in comparison.compared["state"]
    [mask] = [name for name in names if ".mask[" in name]
    other[0]["state"] = {**one[0]["state"]}
    other[0]["state"][mask.replace("(4, 4)", "(2, 2)")] = other[0]["state"].pop(mask)
    assert compare_traces(one, other, (1, 2)).first is None, "a mask of the rows of one rank is no state"
