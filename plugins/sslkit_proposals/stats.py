"""What a store holds, in figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table

from sslkit.api import Proposals, Proposer, Source
from sslkit_proposals import shards
from sslkit_proposals.select import FIRST, NOTHING, SHRUNK, WHOLE, Rules
from sslkit_proposals.store import MappedProposals, Store
from sslkit_proposals.stored import StoredProposer

SIDES = (0, 32, 64, 96, 128, 192, 256, 384, 512)
"""Lower edges in pixels of the classes in which shorter sides and square roots of areas are counted."""

QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def describe(source: Source, proposer: Proposer) -> dict[str, Any]:
    """Return counts, sizes and failures of the proposals of `source`, ready for JSON.

    Raises:
        DataError: They have not been built.
    """
    proposals = proposer.open(source)
    boxes, counts = _arrays(proposals)
    figures = {"proposer": proposer.name, **_counts(counts), **_sizes(boxes)}
    if isinstance(proposer, StoredProposer) and isinstance(proposals, MappedProposals):
        figures |= _few(counts, proposer.rules.enough)
        figures |= {"min_side": _rungs(np.asarray(proposals.rungs), proposer.rules)}
        figures |= _origins(source, proposer.store(source))
    return figures


def _arrays(proposals: Proposals) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return all boxes, and how many each image has."""
    if isinstance(proposals, MappedProposals):
        return np.asarray(proposals.boxes, np.float32), np.diff(proposals.offsets)
    each = [proposals[index] for index in range(len(proposals))]
    return np.concatenate([np.zeros((0, 4), np.float32), *each]), np.array([len(boxes) for boxes in each], np.int64)


def _counts(counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    spread = {name: float(np.quantile(counts, at)) if len(counts) else 0.0 for name, at in QUANTILES.items()}
    mean = float(counts.mean()) if len(counts) else 0.0
    return {"images": len(counts), "boxes": int(counts.sum()), "per_image": {**spread, "mean": round(mean, 2)}}


def _few(counts: npt.NDArray[np.int64], enough: int) -> dict[str, Any]:
    return {"enough": enough, "images_with_fewer": int((counts < enough).sum())}


def _sizes(boxes: npt.NDArray[np.float32]) -> dict[str, Any]:
    size = boxes[:, 2:] - boxes[:, :2]
    return {"shorter_side": _classes(size.min(axis=1)), "root_of_area": _classes(np.sqrt(size.prod(axis=1)))}


def _classes(values: npt.NDArray[np.float32]) -> dict[str, int]:
    counts = np.histogram(values, [*SIDES, np.inf])[0]
    names = [f"{low}-{high - 1}" for low, high in pairwise(SIDES)] + [f"{SIDES[-1]}-"]
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _rungs(rungs: npt.NDArray[np.uint8], rules: Rules) -> dict[str, int]:
    """Count images by the minimum side that was used."""
    names = {rung: str(side) for rung, side in enumerate(rules.min_sides)}
    names |= {SHRUNK: "shrunk", FIRST: "first raw region", WHOLE: "whole image", NOTHING: "unreadable"}
    return {name: int((rungs == rung).sum()) for rung, name in names.items()}


def _origins(source: Source, store: Store) -> dict[str, Any]:
    """Count raw regions and where they come from, and list the images that failed."""
    imported, reduced, regions, failed = 0, 0, 0, []
    for part in store.parts:
        notes = shards.notes(store.path(part))
        imported += int((notes.origins == shards.IMPORTED).sum())
        reduced += sum(store.search.scale(*size) < 1 for size in notes.sizes.tolist() if min(size))
        regions += int(notes.offsets[-1])
        first = store.members(part).start
        failed += [{"key": source.key(first + row), "reason": why} for row, why in enumerate(notes.reasons) if why]
    totals = {"raw_regions": regions, "images_imported": imported, "images_reduced": reduced}
    return {**totals, "folder": str(store.folder), "unreadable": failed}


def report(source: Source, proposer: Proposer) -> Iterator[str]:
    """Say in a few lines what a build left behind."""
    figures = describe(source, proposer)
    yield f"{figures['boxes']:,} proposals of {figures['images']:,} images"
    if "folder" in figures:
        yield f"kept in {figures['folder']}"
    failed = figures.get("unreadable", [])
    if failed:
        yield f"{len(failed)} images have none, because they failed (all of them: sslkit proposals stats):"
        yield from (f"  {one['key']}: {one['reason']}" for one in failed[:10])


def tables(figures: Mapping[str, Any]) -> Group:
    """Return the figures of `describe` as tables for a terminal."""
    parts: list[RenderableType] = [_table("proposals", _lines(figures))]
    for key, title in (("min_side", "images, by minimum side"), ("shorter_side", "boxes, by shorter side in pixels")):
        if key in figures:
            parts.append(_table(title, _shares(figures[key])))
    parts.append(_table("boxes, by square root of area in pixels", _shares(figures["root_of_area"])))
    if figures.get("unreadable"):
        parts.append(_table("unreadable", [(one["key"], one["reason"]) for one in figures["unreadable"]]))
    return Group(*parts)


def _lines(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "images", f"{figures['images']:,}"
    yield "boxes", f"{figures['boxes']:,}"
    yield "boxes an image", ", ".join(f"{name} {value:g}" for name, value in figures["per_image"].items())
    if "enough" in figures:
        yield f"images with fewer than {figures['enough']}", f"{figures['images_with_fewer']:,}"
        yield "raw regions", f"{figures['raw_regions']:,}"
        yield "images imported", f"{figures['images_imported']:,}"
        yield "images reduced for the search", f"{figures['images_reduced']:,}"
        yield "folder", figures["folder"]


def _shares(classes: Mapping[str, int]) -> Sequence[tuple[str, str]]:
    total = max(sum(classes.values()), 1)
    bars = {name: "█" * round(30 * count / total) for name, count in classes.items()}
    return [(name, f"{count:>9,} {count / total:>6.1%} {bars[name]}") for name, count in classes.items()]


def _table(title: str, rows: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    return table
