"""Fake inputs: rows of the embedding table, images, labelled features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.api import Labelled
from sslkit.axes import Axis, parse, unify

SIZES: Mapping[str, int] = {"v": 2, "k": 3, "d": 8, "f": 8, "h": 3, "w": 3, "t": 5}
"""Axis -> size; any other name is 4."""
_GROUP = r"[a-z0-9]+(?:[-_][a-z0-9]+)*"
_NETWORK_ROW = re.compile(rf"(online|target)\.(features|map|tokens|projection|prediction)\.{_GROUP}")
_BATCH_ROW = re.compile(rf"batch\.(?:(boxes|flipped)\.{_GROUP}|(size|index))")
_AXES: Mapping[str, tuple[str | int, ...]] = {
    "features": ("batch", "views", "size"), "map": ("batch", "views", "size", "late", "late"),
    "tokens": ("batch", "views", "late", "size"), "boxes": ("batch", "views", 4), "flipped": ("batch", "views"),
    "size": ("batch", 2), "index": ("batch",),
}  # fmt: skip
"""Kind -> meaning of each axis of a row; sizes of "batch" and "late" axes are known only with data."""
_HEADS: Mapping[int, tuple[str | int, ...]] = {3: _AXES["features"], 4: _AXES["tokens"], 5: _AXES["map"]}
"""The same for projections and predictions by number of axes: of plain, token and dense heads."""


def kind_of(path: str) -> str:
    """Return the kind of a row: "projection" of "online.projection.scene".

    Raises:
        ValueError: The row does not exist.
    """
    if path.startswith("target.prediction."):
        raise ValueError(f"'{path}' does not exist: the target network has no predictor; write target.projection")
    if match := _NETWORK_ROW.fullmatch(path):
        return match[2]
    if match := _BATCH_ROW.fullmatch(path):
        return match[1] or match[2]
    raise ValueError(
        f"'{path}' is not a row; rows are {{online|target}}.{{features|map|tokens|projection|prediction}}.{{group}}, "
        "batch.{boxes|flipped}.{group} and batch.{size|index}"
    )


def split(requirement: str) -> tuple[str, str, tuple[Axis, ...]]:
    """Split "online.projection.scene: b v d" into path, kind and axes.

    Raises:
        ValueError: A part is malformed, or the number of axes is wrong.
    """
    path, colon, axes = requirement.partition(":")
    if not colon:
        raise ValueError(f"'{requirement}' has no axes: write '{requirement}: b v d'")
    kind, names = kind_of(path.strip()), parse(axes)
    if len(names) != len(_places(kind, len(names))):
        raise ValueError(f"'{requirement}': a row of {kind} has {len(_places(kind, 0))} axes, not {len(names)}")
    return path.strip(), kind, names


def _places(kind: str, axes: int) -> tuple[str | int, ...]:
    """Return the meaning of each axis of a row, from its kind and number of axes."""
    return _AXES[kind] if kind in _AXES else _HEADS.get(axes, _HEADS[3])


def rows_of(cls: Any) -> dict[str, str]:
    """Return the rows that an objective requires, and its optional ones."""
    return {**cls.requires, **cls.optional}


def fake_dims(cls: Any, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the `dims` that the core would pass to an objective: every named axis whose size is known without data.

    Args:
        cls: The objective class.
        sizes: Axis -> size, in place of the kit's defaults.
    """
    dims: dict[str, int] = {}
    for requirement in rows_of(cls).values():
        _, kind, axes = split(requirement)
        for axis, place in zip(axes, _places(kind, len(axes)), strict=True):
            if isinstance(axis, str) and place not in ("batch", "late"):
                dims[axis] = place if isinstance(place, int) else _size(axis, sizes or {})
    return dims


def _size(axis: Axis, sizes: Mapping[str, int]) -> int:
    return axis if isinstance(axis, int) else sizes.get(axis, SIZES.get(axis, 4))


def fake_rows(
    cls: Any, dims: Mapping[str, int] | None = None, batch: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Make random tensors for an objective's `forward`.

    Args:
        cls: The objective class; `requires` and `optional` name the rows.
        dims: Axis -> size, in place of the kit's defaults.
        batch: Number of images.
        dtype: Type of the embeddings.
        seed: The same seed gives the same tensors.

    Returns:
        Parameter -> tensor: normally distributed embeddings, with `requires_grad` for those of the online network;
        boxes inside images of 64 to 128 pixels; flips of 0 and 1; indices.

    Raises:
        ValueError: A requirement is malformed.
    """
    rng = torch.Generator().manual_seed(seed)
    rows: dict[str, Tensor] = {}
    bound: dict[str, Axis] = {}
    for name, requirement in rows_of(cls).items():
        path, kind, axes = split(requirement)
        places = _places(kind, len(axes))
        shape = [_length(axis, place, dims or {}, batch) for axis, place in zip(axes, places, strict=True)]
        if reason := unify(axes, shape, bound):
            raise ValueError(f"'{requirement}': {reason}")
        rows[name] = _row(path, kind, shape, dtype, rng)
    return rows


def _length(axis: Axis, place: str | int, sizes: Mapping[str, int], batch: int) -> int:
    return batch if place == "batch" else place if isinstance(place, int) else _size(axis, sizes)


def _row(path: str, kind: str, shape: list[int], dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    if kind == "index":
        return torch.randperm(1000, generator=rng)[: shape[0]]
    if kind == "flipped":
        return torch.randint(0, 2, shape, generator=rng).to(dtype)
    if kind == "size":
        return torch.randint(64, 129, shape, generator=rng).to(dtype)
    if kind == "boxes":
        corners = 64 * torch.rand(*shape[:-1], 2, 2, generator=rng, dtype=dtype)
        return torch.cat([corners.amin(-2), corners.amax(-2) + 0.5], dim=-1).clamp(max=64)
    return torch.randn(shape, generator=rng, dtype=dtype).requires_grad_(path.startswith("online."))


def fake_image(height: int = 120, width: int = 160, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Paint an image (height width 3) with a horizontal gradient, coloured squares and noise."""
    rng = np.random.default_rng(seed)
    image = np.linspace(40, 160, width)[None, :, None] + rng.normal(0, 8, (height, width, 3))
    for left, top in rng.random((4, 2)) * (width * 0.7, height * 0.7):
        side = max(1, int(min(height, width) * 0.3))
        image[int(top) : int(top) + side, int(left) : int(left) + side] += rng.uniform(-90, 90, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def blobs(n: int, categories: int = 4, features: int = 16, seed: int = 0, multi_label: bool = False) -> Labelled:
    """Make clusters (n features) that are easy to separate; every category occurs when n >= categories.

    Args:
        n: Number of samples.
        categories: Number of clusters.
        features: Number of features of a sample.
        seed: Seed of the noise.
        multi_label: Give each sample two categories; its features are then the sum of their centres, plus noise.
    """
    rng = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(categories, features, generator=torch.Generator().manual_seed(1234))
    labels = torch.arange(n) % categories
    noise = torch.randn(n, features, generator=rng)
    names = tuple(f"category-{label}" for label in range(categories))
    if not multi_label:
        return Labelled(centres[labels] + noise, labels, names)
    sets = F.one_hot(labels, categories) + F.one_hot(
        (labels + 1 + torch.arange(n) // categories) % categories, categories
    )
    sets = sets > 0
    return Labelled(sets.float() @ centres + noise, sets, names, ignored=torch.zeros_like(sets))
