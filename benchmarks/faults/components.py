"""Components of a plugin that return one hostile value each: told with plugin, version and file, or used as they are."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from faults.outcome import Part
from sslkit.api import Objective, Objects, Proposals, Proposer, Sample, Source, Terms, ViewSampler
from sslkit.contracts.networks import run_head, run_objective
from sslkit.contracts.proposals import CheckedProposer
from sslkit.contracts.samplers import CheckedSampler
from sslkit.contracts.scores import checked_scores
from sslkit.contracts.sources import CheckedSource
from sslkit.errors import PluginError
from sslkit.plugins import Component, Owner

HEIGHT, WIDTH, CATEGORIES = 40, 60, 3
OWNER = Owner("hostile", "sslkit-hostile", "2.7")
SLACK = 1.0
"""Pixels by which rounding may carry a box across the edge, according to the documentation of proposals and objects."""
NUMBERS: tuple[Any, ...] = (
    0, 1, 2, -1, 7, 1.5, -0.5, math.nan, math.inf, -math.inf, 1e30, True, np.float32(0.5), np.int64(1), 10**30,
)  # fmt: skip
THINGS: tuple[Any, ...] = (
    *NUMBERS, None, "", "x", b"", b"x", [], [1], (), {}, {"a": 1}, object(), np.zeros(3), torch.zeros(2), torch.tensor(1.0),
)  # fmt: skip
"""What a method returns instead of what it should."""


class Case:
    """A call that returns something hostile.

    Attributes:
        what: What was returned, and by which method.
        call: Lets the core use it.
        valid: Whether the contract allows it.
        method: The method that a message must name.
    """

    def __init__(self, what: str, method: str, valid: bool, call: Callable[[], object]) -> None:
        self.what, self.method, self.valid, self.call = what, method, valid, call


def campaign(folder: Path, seed: int, each: int) -> Part:
    """Let every kind of component return that many hostile values.

    Args:
        folder: Not used.
        seed: Seed of all draws.
        each: Number of values of each kind of component.
    """
    part, rng = Part("components"), random.Random(seed)
    outcomes: Counter[str] = Counter()
    for kind, draw in KINDS.items():
        for _ in range(each):
            case = draw(rng)
            part.cases[kind] += 1
            outcome, wrong = judge(case, kind)
            outcomes[f"{kind}: {outcome}"] += 1
            if wrong:
                part.fault(f"{kind}, {case.method}", wrong, case.what)
    part.figures["outcomes"] = dict(outcomes)
    return part


def judge(case: Case, kind: str) -> tuple[str, str]:
    """Let the core use a value; return what happened, and what is wrong with that, if anything."""
    try:
        case.call()
    except PluginError as error:
        words = (f"{kind} 'hostile/it' of {OWNER}: {case.method}", __file__)
        missing = [word for word in words if word not in str(error)]
        if case.valid:
            return "told", f"the contract allows it, and it is told: {error}"
        return "told", f"the message lacks {missing}: {error}" if missing else ""
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "used", "" if case.valid else "the contract does not allow it, and it is used"


def component(kind: str, cls: type[Any]) -> Component:
    """Return a class as the component of a plugin."""
    return Component(kind, "hostile/it", cls, OWNER)


# ------------------------------------------------------------------------------------------- boxes


def hostile_array(rng: random.Random, count: int) -> np.ndarray[Any, Any]:
    """Return boxes (count, 4), often with another shape or type, or with one value that is not right."""
    left, top = rng.uniform(0, 30), rng.uniform(0, 20)
    array = np.array([[left, top, left + rng.uniform(1, 30), top + rng.uniform(1, 20)]] * count, np.float32)
    choice = rng.randrange(8)
    if choice == 0:
        return array.astype(rng.choice([np.int64, np.float16, np.float64, np.bool_, np.complex64, object]))
    if choice == 1:
        return array[:-1] if count else np.zeros((1, 4), np.float32)
    if choice == 2:
        return rng.choice([array.reshape(-1), array[None], array[:, :3], array.T, np.zeros((count, 5), np.float32)])
    if choice > 3 and count:
        array[rng.randrange(count), rng.randrange(4)] = rng.choice(
            [math.nan, math.inf, -math.inf, -3, -0.5, 99, 39.9, 1e30]
        )
    return array


def boxes_are_right(array: Any, count: int | None, slack: float, least: float) -> bool:
    """Return whether boxes obey the contract, by plain arithmetic.

    Args:
        array: The boxes.
        count: The number of boxes that there must be.
        slack: Pixels by which they may reach outside the image.
        least: Sides must be longer than this.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] != 4:
        return False
    if count is not None and len(array) != count:
        return False
    for left, top, right, bottom in array.astype(float).tolist():
        if not all(map(math.isfinite, (left, top, right, bottom))) or min(left, top) < -slack:
            return False
        if right > WIDTH + slack or bottom > HEIGHT + slack or not (right - left > least and bottom - top > least):
            return False
    return True


# ------------------------------------------------------------------------------------------- kinds


def sampler(rng: random.Random) -> Case:
    """A sampler that promises two views of one group."""
    boxes, counts = hostile_array(rng, 2), {"draws": rng.choice(THINGS if rng.random() < 0.3 else NUMBERS)}
    sample: Any = Sample({"scene": boxes}, counts if rng.random() < 0.3 else {})
    shape = rng.randrange(6)
    if shape == 0:
        sample = rng.choice(THINGS)
    elif shape == 1:
        sample = Sample({rng.choice(["scenes", "", "scene "]): boxes})
    elif shape == 2:
        sample = Sample({"scene": boxes, "more": boxes})

    class It(ViewSampler):
        name = "it"
        groups: ClassVar[dict[str, int]] = {"scene": 2}

        def sample(self, *_: Any) -> Any:
            return sample

    checked = CheckedSampler(component("sampler", It), It())
    valid = isinstance(sample, Sample) and set(sample.boxes) == {"scene"}
    valid = valid and boxes_are_right(sample.boxes["scene"], 2, 1e-3, 0.0)
    valid = valid and all(isinstance(value, (Real, np.bool_)) and _is_finite(value) for value in sample.counts.values())
    generator = np.random.default_rng(0)
    return Case(repr(sample), "sample", valid, lambda: checked.sample(HEIGHT, WIDTH, np.zeros((0, 4)), generator))


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError):
        return isinstance(value, int)


def proposer(rng: random.Random) -> Case:
    """A proposer of two images."""
    boxes: Any = hostile_array(rng, 3) if rng.random() < 0.8 else rng.choice(THINGS)
    length: Any = 2 if rng.random() < 0.8 else rng.choice([0, 1, 3])

    class They(Proposals):
        def __len__(self) -> int:
            return length

        def __getitem__(self, index: int) -> Any:
            return boxes

    class It(Proposer):
        name = "it"

        def missing(self, source: Source) -> str | None:
            return None

        def build(self, source: Source, progress: Any, jobs: int) -> None:
            pass

        def open(self, source: Source) -> Proposals:
            return They()

    checked = CheckedProposer(component("proposer", It), It())
    valid = length == 2 and boxes_are_right(boxes, None, SLACK, -1e-9)
    method = "__getitem__" if length == 2 else "open"
    return Case(f"{length} of {boxes!r}", method, valid, lambda: checked.open(_Two()).within(0, HEIGHT, WIDTH))


class _Two(Source):
    """Two images."""

    name = "it"
    categories = tuple("abc")

    def open(self) -> None:
        """Open nothing."""

    def __len__(self) -> int:
        """Return the number of images."""
        return 2

    def key(self, index: int) -> str:
        """Return a key."""
        return f"{index}.png"

    def read(self, index: int) -> bytes:
        """Return bytes."""
        return b"x"


def source(rng: random.Random) -> Case:
    """A source, of which one method returns something else."""
    method = rng.choice(["key", "read", "label", "objects", "objects", "missing", "left_out"])
    value = _objects(rng) if method == "objects" and rng.random() < 0.8 else rng.choice(THINGS)
    cls = type("It", (_Two,), {method: lambda *_: value, "__module__": __name__})
    checked = CheckedSource(component("source", cls), cls())
    checked.open()
    arguments = () if method in {"missing", "left_out"} else (0,)

    def call() -> None:
        answer = getattr(checked, method)(*arguments)
        if method == "objects":
            checked.refuse_outside(0, answer.boxes, HEIGHT, WIDTH)

    return Case(repr(value), method, SOURCE_RULES[method](value), call)


def _objects(rng: random.Random) -> Objects:
    labels: Any = np.array([rng.choice([0, 1, 2, 2, 1, 3, -1]) for _ in range(2)])
    labels = rng.choice([labels, labels, labels.astype(np.int32), labels.astype(float), labels[:1], [0, 1], None])
    marks: Any = rng.choice([None, None, np.zeros(2, np.bool_), np.zeros(2), np.zeros(3, np.bool_), [True, False]])
    return Objects(hostile_array(rng, 2), labels, marks, rng.choice([0, 0, 3, np.int64(2), 0.5, "x", None]))


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer of Python, NumPy or torch, and no truth value."""
    if isinstance(value, torch.Tensor):
        return value.ndim == 0 and not value.is_floating_point() and value.dtype != torch.bool
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def objects_are_right(value: Any) -> bool:
    """Return whether objects obey the contract."""
    if not isinstance(value, Objects) or not boxes_are_right(value.boxes, None, SLACK, -1e-9):
        return False
    if value.boxes.min(initial=0) < -1e-3:
        return False
    labels, marks = value.labels, value.difficult
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != (len(value.boxes),):
        return False
    if marks is not None and not (
        isinstance(marks, np.ndarray) and marks.dtype == np.bool_ and marks.shape == labels.shape
    ):
        return False
    return all(0 <= label < CATEGORIES for label in labels.tolist()) and is_whole(value.outside)


SOURCE_RULES: dict[str, Callable[[Any], bool]] = {
    "key": lambda value: isinstance(value, str) and value != "",
    "read": lambda value: isinstance(value, bytes),
    "label": lambda value: value is None or (is_whole(value) and 0 <= value < CATEGORIES),
    "missing": lambda value: value is None or (isinstance(value, str) and bool(value.strip())),
    "left_out": lambda value: isinstance(value, dict)
    and all(isinstance(key, str) and is_whole(number) for key, number in value.items()),
    "objects": objects_are_right,
}  # fmt: skip


def objective(rng: random.Random) -> Case:
    """An objective on one row (b v d)."""
    row = torch.randn(2, 2, 4, requires_grad=True)
    right = row.square().mean()
    values: list[Any] = [
        right, right[None], row.mean(1), right.detach(), right.to(torch.float64), right.long(), right.item(), {}, {"a": right},
        {"a": right, "b": 1.0}, {"a": right.detach(), "b": right}, Terms({"a": right}, {"m": right.detach()}), Terms({}),
        Terms({"a": right}, {"a": right.detach()}), Terms({"a": right}, {"m": row.detach()}), Terms({"a": right}, {"m": 3}),
        Terms(right), [right], *THINGS,
    ]  # fmt: skip
    value = rng.choice(values)

    class It(Objective):
        name = "it"
        requires: ClassVar = {"p": "online.prediction.scene: b v d"}

        def forward(self, p: torch.Tensor) -> Any:
            return value

    call = component("objective", It)
    return Case(repr(value), "forward", terms_are_right(value), lambda: run_objective(call, It(), {"p": row}, {}))


def terms_are_right(value: Any) -> bool:
    """Return whether an objective may return this for a row that needs a gradient."""
    terms, monitors = (value.terms, value.monitors) if isinstance(value, Terms) else (value, {})
    terms = {"loss": terms} if isinstance(terms, torch.Tensor) and not isinstance(value, Terms) else terms
    if not isinstance(terms, dict) or not terms or set(terms) & set(monitors):
        return False
    scalars = [*terms.values(), *monitors.values()]
    if not all(isinstance(item, torch.Tensor) and item.ndim == 0 and item.is_floating_point() for item in scalars):
        return False
    return any(item.requires_grad or not bool(item) for item in terms.values())


def head(rng: random.Random) -> Case:
    """A head from four to three features."""
    x = torch.randn(5, 4)
    changes: list[Callable[[torch.Tensor], Any]] = [
        lambda y: y, lambda y: y[:, :2], lambda y: y[:4], lambda y: y[..., None], lambda y: y.reshape(-1), lambda y: y.long(),
        lambda y: y.double(), lambda y: y.half(), lambda y: [y], lambda y: (y,), lambda y: {"d": y}, lambda y: y.numpy(),
        lambda y: y.to("meta"), lambda y: y.expand(2, 5, 3), lambda y: y > 0, lambda _: None, lambda y: y.to_sparse(),
    ]  # fmt: skip
    value = rng.choice([*[change(x[:, :3].clone()) for change in changes], *THINGS])

    class It(torch.nn.Module):
        name = "it"
        gives, out_dim = "d", 3

        def forward(self, x: torch.Tensor) -> Any:
            return value

    valid = isinstance(value, torch.Tensor) and value.shape == (5, 3) and value.is_floating_point()
    valid = valid and value.device == x.device and value.layout == torch.strided
    return Case(
        repr(value), "forward", valid, lambda: run_head(component("head", It), It(), x, component("backbone", It))
    )


def probe(rng: random.Random) -> Case:
    """A probe's scores."""
    name = rng.choice(["top1", "top1", "map", "chosen_k", "count_test", 3, ""])
    value: Any = (
        {name: rng.choice(THINGS if rng.random() < 0.3 else NUMBERS)} if rng.random() < 0.8 else rng.choice(THINGS)
    )

    class It:
        name = "it"

        def evaluate(self) -> None:
            """Be named in messages."""

    return Case(repr(value), "evaluate", scores_are_right(value), lambda: checked_scores(component("probe", It), value))


def scores_are_right(value: Any) -> bool:
    """Return whether a probe may return this."""
    if not isinstance(value, dict) or not value:
        return False
    for name, score in value.items():
        if not isinstance(name, str) or isinstance(score, bool) or not isinstance(score, Real) or not _is_finite(score):
            return False
        if not name.startswith(("chosen_", "count_")) and not -1e-6 <= score <= 1 + 1e-6:
            return False
    return True


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "sampler": sampler, "proposer": proposer, "source": source, "objective": objective, "head": head, "probe": probe,
}  # fmt: skip
