"""Components of every kind that break their contract in one way each, beside right ones.

`ZOO` lists them as (kind, method or attribute, what it returns, words of the message).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from sslkit.api import Objects, Proposals, Proposer, Sample, Terms
from tests.conftest import Alike, Dots, Linear, Nearest, Pair, Tiny

FILE = __file__
BOXES = np.array([[0, 0, 20, 30], [8, 4.5, 48, 40]], np.float32)
"""Two right boxes in an image of 48 x 40 pixels."""


class Same(Proposals):
    """The same two boxes in every image."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Any:
        return BOXES


class Proposing(Proposer):
    """Two boxes in every image."""

    name = "proposing"

    def missing(self, source: Any) -> str | None:
        return None

    def build(self, source: Any, progress: Any, jobs: int) -> None:
        pass

    def open(self, source: Any) -> Proposals:
        return Same(len(source))


class Choosing(Pair):
    """A pair that asks for proposals."""

    name = "choosing"
    needs_proposals = True


RIGHT: dict[str, type[Any]] = {
    "source": Dots, "proposer": Proposing, "sampler": Pair, "backbone": Tiny, "head": Linear, "objective": Alike,
    "probe": Nearest,
}  # fmt: skip
PLURAL = {"proposer": "proposers", **{kind: f"{kind}s" for kind in RIGHT}}


def wrong(kind: str, method: str, value: Any) -> type[Any]:
    """Return a component that is right but for one method, which calls `value`, or one attribute, which is `value`."""
    base = RIGHT[kind]
    members: dict[str, Any] = {"name": "wrong", "__module__": __name__}
    if method == "__getitem__" and kind == "proposer":
        proposals = type("WrongProposals", (Same,), {method: _method(method, value)})
        return type("Wrong", (base,), {**members, "open": lambda self, source: proposals(len(source))})
    if not callable(value):
        return type("Wrong", (base,), {**members, method: value})
    made = _method(method, value)
    return type("Wrong", (base,), {**members, method: property(made) if method == "groups" else made})


def _method(method: str, value: Callable[..., Any]) -> Any:
    def returns(self: Any, *given: Any) -> Any:
        return value(self, *given)

    def forward(self: Any, *given: Any, **named: Any) -> Any:  # objectives get their rows by name
        return value(self, *given, **named)

    return forward if method == "forward" else returns


def sample(boxes: Any, **more: Any) -> Callable[..., Any]:
    return lambda *given: Sample({"scene": boxes}, **more)


def box(*values: Any) -> Callable[..., Any]:
    return sample(np.array([BOXES[0], values], np.float32))


def wide(left: float, right: float) -> Any:
    """Return two boxes in float64."""
    return np.array([BOXES[0], [left, 4, right, 12]], np.float64)


def gives(value: Any) -> Callable[..., Any]:
    return lambda *given, **named: value


def fails(self: Any, *given: Any, **named: Any) -> Any:
    return {}["absent"]


def proposal(*values: Any) -> Callable[..., Any]:
    return lambda self, index: np.array([BOXES[0], values], np.float32)


def rows(**changes: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    """Return a backbone's forward with some of its rows changed."""

    def forward(self: Any, x: torch.Tensor) -> Any:
        made = Tiny.forward(self, x)
        return {**made, **{name: change(made[name]) for name, change in changes.items()}}

    return forward


def sized(cls: type[Any], **sizes: Any) -> Callable[..., Any]:
    """Return a network's constructor that sets its size to something else."""

    def init(self: Any, *wiring: Any) -> None:
        cls.__init__(self, *wiring)
        for name, size in sizes.items():
            setattr(self, name, size)

    return init


def head(change: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    return lambda self, x: change(Linear.forward(self, x))


def loss(change: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    """Return an objective's forward that changes the squared differences (b v d)."""
    return lambda self, p, z: change((p - z.flip(1)).square())


def writes(self: Any, p: torch.Tensor, z: torch.Tensor) -> Any:
    return (p - z.mul_(2)).square().mean()


def backbone_writes(self: Any, x: torch.Tensor) -> Any:
    return Tiny.forward(self, x.sub_(1))


def head_writes(self: Any, x: torch.Tensor) -> Any:
    return Linear.forward(self, x.relu_())


SAMPLES = [
    (sample(BOXES[:1]), "for view group 'scene' an array of shape (1, 4): write shape (2, 4), one box for each view"),
    (sample(BOXES[[0, 1, 0]]), "an array of shape (3, 4): write shape (2, 4)"),
    (sample(BOXES[:0]), "an array of shape (0, 4)"),
    (sample(BOXES.reshape(-1)), "an array of shape (8,)"),
    (sample(BOXES[None]), "an array of shape (1, 2, 4)"),
    (sample(BOXES[:, :3]), "an array of shape (2, 3)"),
    (sample(BOXES.tolist()), "a list: write a NumPy array of float32, shape (2, 4)"),
    (sample(torch.from_numpy(BOXES)), "a Tensor: write a NumPy array of float32"),
    (sample(np.ma.masked_array(BOXES, BOXES < 1)), "a MaskedArray: write"),
    (sample(BOXES.astype(np.int64)), "an array of int64: write a NumPy array of float32"),
    (sample(BOXES.astype(object)), "an array of object"),
    (sample(BOXES > 3), "an array of bool"),
    (sample(None), "None: write a NumPy array"),
    (box(30, 4, 20, 40), "box 1: [30, 4, 20, 40], which is inverted: boxes are left, top, right, bottom"),
    (box(8, 30, 20, 12), "which is inverted"),
    (box(8, 4, 8, 12), "box 1: [8, 4, 8, 12], which is empty"),
    (box(8, 4, 20, 41), "box 1: [8, 4, 20, 41], which reaches outside the image of 48 x 40 pixels"),
    (box(-2, 4, 20, 12), "which reaches outside the image"),
    (box(100, 100, 120, 130), "which reaches outside the image"),
    (box(np.nan, 4, 20, 12), "box 1: [nan, 4, 20, 12], which is not finite"),
    (box(8, 4, np.inf, 12), "which is not finite"),
    (box(-np.inf, 4, 20, 12), "which is not finite"),
    (gives(None), "returned None: return a sslkit.api.Sample"),
    (gives({"scene": BOXES}), "returned a dict: return a sslkit.api.Sample"),
    (gives([BOXES]), "returned a list: return a sslkit.api.Sample"),
    (gives((BOXES, {})), "returned a tuple: return a sslkit.api.Sample"),
    (gives(Sample([("scene", BOXES)])), "returned a list as boxes: write a dict"),
    (gives(Sample({})), "boxes of the view groups none, and `groups` promises 'scene'"),
    (gives(Sample({"scene": BOXES, "extra": BOXES})), "boxes of the view groups 'scene', 'extra', and"),
    (gives(Sample({"scenes": BOXES})), "boxes of the view groups 'scenes', and `groups` promises 'scene'"),
    (sample(BOXES, counts={"drawn": "many"}), "'many' as count 'drawn': write a finite number"),
    (sample(BOXES, counts={"drawn": np.nan}), "nan as count 'drawn': write a finite number"),
    (sample(BOXES, counts={"drawn": None}), "None as count 'drawn'"),
    (sample(BOXES, counts={"drawn": [1]}), "a list as count 'drawn'"),
    (sample(BOXES, counts={"drawn": 10**400}), "as count 'drawn': write a finite number"),
    (sample(BOXES, counts={"drawn": -(10**5000)}), "an int as count 'drawn': write a finite number"),
    (sample(BOXES, counts={"drawn": Fraction(10**400, 3)}), "as count 'drawn': write a finite number"),
    (sample(BOXES, counts={3: 1}), "3 as the name of a count"),
    (sample(wide(10.1, 10.1 + 1e-9)), "box 1: [10.1, 4, 10.1, 12], which is empty: boxes are left, top"),
    (sample(wide(40, 40 + 1e-7)), "which is empty"),
    (sample(wide(np.nextafter(20, 0), 20)), "box 1: [20, 4, 20, 12], which is empty"),
    (sample(wide(8, 1e300)), "which is not finite"),
    (sample(BOXES, counts=[1]), "a list as counts: write a dict"),
    (
        lambda self, height, width, proposals, rng: Sample({"scene": BOXES}, {f"try {rng.integers(100)}": 1}),
        "for another image: return all of them each time",
    ),
    (fails, "failed: KeyError: 'absent'"),
]
SOURCES = [
    ("__init__", fails, "failed: KeyError: 'absent'"),
    ("missing", gives(False), "missing() returned False: return what is missing, in words, or None"),
    ("missing", gives(3), "missing() returned 3"),
    ("missing", gives(""), "missing() returned '': return what is missing, in words, or None"),
    ("missing", gives(" \n"), "missing() returned ' \\n': return what"),
    ("missing", gives(Path("x")), "missing() returned PosixPath('x')"),
    ("missing", fails, "failed: KeyError"),
    ("prepare", fails, "failed: KeyError"),
    ("open", fails, "failed: KeyError"),
    ("__len__", gives(-1), "__len__() returned -1: return the number of images"),
    ("__len__", gives(2.5), "__len__() returned 2.5"),
    ("__len__", gives("12"), "__len__() returned '12'"),
    ("__len__", gives(None), "__len__() returned None"),
    ("__len__", gives(True), "__len__() returned True"),
    ("__len__", gives(10**20), "__len__() returned 100000000000000000000: return the number of images, at most 1"),
    ("__len__", gives(2**40), "__len__() returned 1099511627776: return the number"),
    ("__len__", gives(10**5000), "__len__() returned an int: return the number"),
    ("__len__", gives(np.uint64(2**63)), "__len__() returned np.uint64(9223372036854775808)"),
    ("__len__", gives(0), "__len__() returned 0, and open() did not fail: raise a DataError there"),
    ("categories", "red", "categories is 'red': write the names of the labels, as strings"),
    ("categories", (1, 2), "categories is (1, 2)"),
    ("categories", None, "categories is None"),
    ("categories", 3, "categories is 3"),
    ("key", gives(None), "key() returned None for image 0: return a relative path, as a string"),
    ("key", gives(Path("a.png")), "key() returned PosixPath('a.png') for image 0"),
    ("key", gives(b"a.png"), "key() returned b'a.png' for image 0"),
    ("key", gives(""), "key() returned '' for image 0"),
    ("key", gives("a.png"), "key() returned 'a.png' for image 0 and for image 1: keys are unique"),
    ("key", lambda self, index: f"{index // 2}.png", "for image 0 and for image 1: keys are unique"),
    ("key", fails, "failed: KeyError"),
    ("read", gives(None), "read() returned None for image "),
    ("read", gives("a.png"), "read() returned a str for image "),
    ("read", gives(io.BytesIO()), "read() returned a BytesIO for image "),
    ("read", gives(bytearray(b"x")), "read() returned a bytearray for image "),
    ("read", gives(np.zeros((40, 48, 3), np.uint8)), "read() returned an array of uint8 for image "),
    ("read", fails, "failed: KeyError"),
]
LABELS = [
    ("objects", gives(None), "objects() returned for image {} None: return a sslkit.api.Objects"),
    ("objects", gives((BOXES, [0, 1])), "a tuple: return a sslkit.api.Objects"),
    ("objects", gives(Objects(BOXES.tolist(), np.array([0, 1]))), "as boxes a list"),
    ("objects", gives(Objects(BOXES[0], np.array([0]))), "as boxes an array of shape (4,)"),
    ("objects", gives(Objects(BOXES, [0, 1])), "as labels a list"),
    ("objects", gives(Objects(BOXES, np.array([0.0, 1.0]))), "as labels an array of float64"),
    ("objects", gives(Objects(BOXES, np.array([0]))), "2 boxes and labels of shape (1,)"),
    ("objects", gives(Objects(BOXES, np.array([[0], [1]]))), "2 boxes and labels of shape (2, 1)"),
    ("objects", gives(Objects(BOXES, np.array([0, 1]), np.array([True]))), "2 boxes and difficult of shape (1,)"),
    ("objects", gives(Objects(BOXES, np.array([0, 1]), np.array([0, 1]))), "as difficult an array of int64"),
    ("objects", gives(Objects(BOXES, np.array([0, 2]))), "labels from 0 to 2 of 2 categories"),
    ("objects", gives(Objects(BOXES, np.array([-1, 1]))), "labels from -1 to 1 of 2 categories"),
    ("objects", gives(Objects(BOXES * np.nan, np.array([0, 1]))), "which is not finite"),
    ("objects", gives(Objects(BOXES[:, [2, 3, 0, 1]], np.array([0, 1]))), "which is inverted: boxes are left"),
    ("objects", gives(Objects(BOXES.astype(np.float64) * 1e300, np.array([0, 1]))), "inf], which is not finite"),
    ("objects", gives(Objects(BOXES - 20, np.array([0, 1]))), "pixels outside the image: clip boxes to it"),
    ("objects", gives(Objects(BOXES, np.array([0, 1]), None, None)), "None as outside"),
    ("objects", gives(Objects(BOXES, np.array([0, 1]), turned=1)), "1 as turned: write True or False"),
    ("objects", gives(Objects(BOXES, np.array([0, 1]), turned=np.zeros(2, bool))), "as turned: write True or False"),
    ("objects", gives(Objects(BOXES, np.array([0, 1]), wrong_size=None)), "None as wrong_size: write True or False"),
    (
        "objects",
        gives(Objects(BOXES + 10, np.array([0, 1]))),
        "the box [18.0, 14.5, 58.0, 50.0], and the upright image",
    ),
    ("objects", gives(Objects(BOXES + 90, np.array([0, 1]))), "and the upright image has 48 x 40 pixels"),
    ("objects", fails, "failed: KeyError"),
    ("label", gives(2), "label() returned 2 for image {}: return None, or a label from 0 to 1"),
    ("label", gives(-1), "label() returned -1"),
    ("label", gives("red"), "label() returned 'red'"),
    ("label", gives(1.0), "label() returned 1.0"),
    ("label", gives(True), "label() returned True"),
    ("label", gives(10**20), "label() returned 100000000000000000000"),
    ("label", gives(10**5000), "label() returned an int"),
    ("label", fails, "failed: KeyError"),
]
PROPOSALS = [
    ("__init__", fails, "failed: KeyError"),
    ("missing", gives(True), "missing() returned True: return what is missing"),
    ("missing", gives(["nothing"]), "missing() returned ['nothing']"),
    ("missing", gives(""), "missing() returned '': return what is missing, in words, or None"),
    ("missing", fails, "failed: KeyError"),
    ("open", gives(None), "open() returned None: return a subclass of sslkit.api.Proposals"),
    ("open", gives([BOXES] * 12), "open() returned a list: return a subclass of"),
    ("open", lambda self, source: dict.fromkeys(range(len(source)), BOXES), "open() returned a dict"),
    ("open", gives(Same(3)), "open() returned proposals of 3 images, and the source has 12"),
    ("open", gives(Same(2.5)), "failed: TypeError"),
    ("open", fails, "failed: KeyError"),
    ("__getitem__", gives(None), "__getitem__() returned for image "),
    ("__getitem__", gives(BOXES.tolist()), "a list: write a NumPy array of float32, shape (n, 4)"),
    ("__getitem__", gives(np.ones((3, 5), np.float32)), "an array of shape (3, 5): write shape (n, 4)"),
    ("__getitem__", gives(BOXES[0]), "an array of shape (4,)"),
    ("__getitem__", gives(BOXES.astype(np.int32)), "an array of int32"),
    ("__getitem__", proposal(np.nan, 0, 9, 9), "box 1: [nan, 0.0, 9.0, 9.0], which is not finite"),
    ("__getitem__", proposal(0, 0, np.inf, 9), "which is not finite"),
    ("__getitem__", proposal(0, 0, 60, 9), "reaches outside the image of 48 x 40 pixels: were these proposals made"),
    ("__getitem__", proposal(-9, -9, -5, -4), "which reaches outside the image"),
    ("__getitem__", proposal(500, 500, 600, 600), "which reaches outside the image"),
    ("__getitem__", proposal(30, 4, 20, 12), "which is inverted: boxes are left, top, right, bottom"),
    ("__getitem__", fails, "failed: KeyError"),
]
BACKBONES = [
    ("forward", lambda self, x: Tiny.forward(self, x)["features"], "forward() returned a Tensor: return a dict"),
    ("forward", lambda self, x: list(Tiny.forward(self, x).values()), "forward() returned a list"),
    ("forward", gives(None), "forward() returned None"),
    ("forward", gives({}), "forward() returned nothing, and `gives` promises 'features'"),
    ("forward", lambda self, x: {"feature": Tiny.forward(self, x)["features"]}, "returned 'feature', and `gives`"),
    ("forward", rows(map=lambda row: row[:, 0]), "as 'map' a tensor of shape (2, 5, 5) for 2 inputs, not (2, 8, any"),
    ("forward", rows(map=lambda row: row.permute(0, 2, 3, 1)), "as 'map' a tensor of shape (2, 5, 5, 8)"),
    ("forward", rows(features=lambda row: row[:, :5]), "a tensor of shape (2, 5) for 2 inputs, not (2, 8) as `gives`"),
    ("forward", rows(features=lambda row: row[1:]), "a tensor of shape (1, 8) for 2 inputs"),
    ("forward", rows(features=lambda row: row.mean(0)), "a tensor of shape (8,) for 2 inputs"),
    ("forward", rows(features=lambda row: row.argsort()), "as 'features' a tensor of torch.int64, not of floats"),
    ("forward", rows(features=gives(np.zeros((2, 8)))), "as 'features' an array of float64, not a tensor of shape"),
    ("forward", backbone_writes, "forward() writes into the images, which others read, too"),
    ("forward", fails, "failed: KeyError"),
    ("gives", {"map": "f h w"}, "gives is {'map': 'f h w'}: write {'features': 'f'}"),
    ("gives", {"features": "f", "logits": "c"}, "gives is {'features': 'f', 'logits': 'c'}"),
    ("gives", {"features": "f", "map": "f 2.5 w"}, "gives has the axes 'f 2.5 w' for 'map': '2.5' in the axis string"),
    ("gives", {"features": "d"}, "gives is {'features': 'd'}"),
    ("gives", "features", "gives is 'features'"),
    ("__init__", sized(Tiny, dim=0), "dim is 0: set it to the size of the output"),
    ("__init__", sized(Tiny, dim=8.0), "dim is 8.0"),
    ("__init__", sized(Tiny, dim=None), "dim is None"),
    ("__init__", sized(Tiny, dim=10**20), "dim is 100000000000000000000: set it to the size of the output"),
    ("__init__", lambda self: torch.nn.Module.__init__(self), "dim is missing"),
    ("__init__", fails, "failed: KeyError"),
]
HEADS = [
    ("forward", gives(None), "forward() returned None, not a tensor of shape (2, 8)"),
    ("forward", head(lambda z: {"z": z}), "forward() returned a dict, not a tensor"),
    ("forward", head(lambda z: z[:, :4]), "a tensor of shape (2, 4) for 2 inputs, not (2, 8) as `gives` and `out_dim`"),
    ("forward", head(lambda z: z[:1]), "a tensor of shape (1, 8) for 2 inputs"),
    ("forward", head(lambda z: z[:, :, None]), "a tensor of shape (2, 8, 1)"),
    ("forward", head(lambda z: z.sum()), "a tensor of shape ()"),
    ("forward", head(lambda z: z > 0), "a tensor of torch.bool, not of floats"),
    ("forward", head(lambda z: z.tolist() if not z.is_meta else [0]), "forward() returned a list"),
    ("forward", head_writes, "forward() writes into its input, which others read, too"),
    ("forward", fails, "failed: KeyError"),
    ("after_step", fails, "failed: KeyError"),
    ("takes", "feature", "takes is 'feature': write one of 'features', 'map', 'tokens'"),
    ("takes", None, "takes is None"),
    ("gives", "", "gives is '': write axes"),
    ("gives", 3, "gives is 3"),
    ("__init__", sized(Linear, out_dim=0), "out_dim is 0: set it to the size of the output"),
    ("__init__", sized(Linear, out_dim="6"), "out_dim is '6'"),
    ("__init__", sized(Linear, out_dim=(6,)), "out_dim is (6,)"),
    ("__init__", sized(Linear, out_dim=10**5000), "out_dim is an int: set it to the size of the output"),
    ("__init__", lambda self, dims: torch.nn.Module.__init__(self), "out_dim is missing"),
    ("__init__", fails, "failed: KeyError"),
]
OBJECTIVES = [
    ("forward", loss(lambda d: d.mean((1, 2))), "as term 'loss' a tensor of shape (2,): return a scalar, such as its"),
    ("forward", loss(lambda d: d.mean().view(1)), "as term 'loss' a tensor of shape (1,)"),
    ("forward", gives(0.5), "forward() returned a float: return a scalar tensor, a dict of them, or sslkit.api.Terms"),
    ("forward", gives(1), "forward() returned an int"),
    ("forward", gives(None), "forward() returned None"),
    ("forward", loss(lambda d: [d.mean()]), "forward() returned a list"),
    ("forward", loss(lambda d: (d.mean(), {})), "forward() returned a tuple"),
    ("forward", gives({}), "forward() returned no terms: return at least one"),
    ("forward", loss(lambda d: {"a": d.mean(), "b": d.mean(0)}), "as term 'b' a tensor of shape (2, 6)"),
    ("forward", loss(lambda d: {"a": d.mean(), "b": 0.5}), "as term 'b' a float: return a scalar tensor"),
    ("forward", loss(lambda d: {1: d.mean(), "1": d.sum()}), "1 as the name of a term: write a string"),
    ("forward", loss(lambda d: {None: d.mean()}), "None as the name of a term"),
    ("forward", loss(lambda d: Terms({"a": d.mean()}, {2.0: d.sum()})), "2.0 as the name of a monitor"),
    ("forward", loss(lambda d: d.argmax()), "as term 'loss' a tensor of torch.int64: return a float"),
    ("forward", loss(lambda d: Terms({"a": d.mean()}, {"m": 0.5})), "as monitor 'm' a float"),
    ("forward", loss(lambda d: Terms({"a": d.mean()}, {"m": d})), "as monitor 'm' a tensor of shape (2, 2, 6)"),
    ("forward", loss(lambda d: Terms({"a": d.mean()}, {"a": d.sum()})), "'a' as a term and as a monitor"),
    ("forward", loss(lambda d: Terms([d.mean()])), "returned a list: return a scalar tensor, a dict"),
    ("forward", loss(lambda d: d.mean().detach()), "terms without a gradient, which train nothing"),
    ("forward", loss(lambda d: d.new_zeros(())), "without a gradient"),
    ("forward", writes, "forward() writes into z, which others read, too: work on a copy"),
    ("forward", lambda self, p: p.mean(), "failed: TypeError"),
    ("forward", fails, "failed: KeyError"),
    ("after_step", fails, "failed: KeyError"),
    ("requires", {}, "requires is {}: write a dict, parameter of forward -> row and axes"),
    ("requires", ["online.projection.scene"], "requires is ['online.projection.scene']"),
    ("requires", {"p": "online.projection.scene"}, "requires has the row 'online.projection.scene' for parameter 'p'"),
    ("requires", {"p": 3}, "requires has the row 3 for parameter 'p'"),
    ("requires", {"p": "online.projection.scene: b v d!"}, "'d!' in the axis string"),
    ("optional", None, "optional is None"),
    ("__init__", fails, "failed: KeyError"),
]
PROBES = [
    ("evaluate", gives(None), "evaluate() returned None: return a dict, name of a score -> number"),
    ("evaluate", gives(0.5), "evaluate() returned a float"),
    ("evaluate", gives([0.5]), "evaluate() returned a list"),
    ("evaluate", gives({}), "evaluate() returned no scores"),
    ("evaluate", gives({"top1": float("nan")}), "returned top1 = nan: return a finite number"),
    ("evaluate", gives({"chosen_lr": float("inf")}), "returned chosen_lr = inf"),
    ("evaluate", gives({"top1": 90.0}), "returned top1 = 90, and rates lie in [0, 1]: name a setting chosen_top1"),
    ("evaluate", gives({"map": -0.5}), "returned map = -0.5, and rates lie in [0, 1]"),
    ("evaluate", gives({"top1": "0.5"}), "returned a str as 'top1': return a number, such as tensor.item()"),
    ("evaluate", gives({"top1": torch.tensor(0.5)}), "returned a Tensor as 'top1'"),
    ("evaluate", gives({"top1": None}), "returned None as 'top1'"),
    ("evaluate", gives({"top1": True}), "returned a bool as 'top1'"),
    ("evaluate", gives({"top1": np.array([0.5])}), "returned an array of float64 as 'top1'"),
    ("evaluate", gives({"top1": 10**400}), "return a finite number"),
    ("evaluate", gives({"count_seen": 10**400}), "returned count_seen = 1000000000"),
    ("evaluate", gives({"count_seen": -(10**5000)}), "returned count_seen = an int: return a finite number"),
    ("evaluate", gives({1: 0.5}), "returned 1 as the name of a score: write a string"),
    ("evaluate", fails, "failed: KeyError"),
]
ZOO = [
    *(("sampler", "sample", *entry) for entry in SAMPLES),
    ("sampler", "groups", gives(None), "groups is None: write a dict, view group -> number of views"),
    ("sampler", "groups", gives(["scene"]), "groups is ['scene']"),
    ("sampler", "groups", gives({}), "groups is {}"),
    ("sampler", "groups", gives({"scene": 0}), "groups gives 0 views of group 'scene'"),
    (
        "sampler",
        "groups",
        gives({"scene": 10**9}),
        "groups gives 1000000000 views of group 'scene': write a number of at",
    ),
    ("sampler", "groups", gives({"scene": 1001}), "groups gives 1001 views of group 'scene'"),
    ("sampler", "groups", gives({"scene": 10**5000}), "groups gives an int views of group 'scene'"),
    ("sampler", "groups", gives({"scene": 2.0}), "groups gives 2.0 views of group 'scene'"),
    ("sampler", "groups", gives({"my scene": 2}), "groups names a view group 'my scene'"),
    ("sampler", "groups", fails, "failed: KeyError"),
    ("sampler", "needs_proposals", "no", "needs_proposals is 'no': write True or False"),
    ("sampler", "__init__", fails, "failed: KeyError"),
    *(("source", *entry) for entry in SOURCES),
    *(("proposer", *entry) for entry in PROPOSALS),
    *(("backbone", *entry) for entry in BACKBONES),
    *(("head", *entry) for entry in HEADS),
    *(("objective", *entry) for entry in OBJECTIVES),
    ("probe", "takes", "single-label", "takes is 'single-label': write a tuple of"),
    ("probe", "takes", ("labels",), "takes is ('labels',)"),
    ("probe", "__init__", fails, "failed: KeyError"),
]
"""Components whose fault ends a run before or at its first step."""


class NoBase:
    """A class that extends nothing of sslkit."""

    name: ClassVar[str] = "wrong"
