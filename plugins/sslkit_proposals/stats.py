"""Statistics of a store: counts, sizes and failures."""

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
from sslkit_proposals.stored_proposer import StoredProposer

SIDES = (0, 32, 64, 96, 128, 192, 256, 384, 512)
"""Lower edges of the histogram bins for shorter sides and square roots of areas, pixels."""

QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def describe(source: Source, proposer: Proposer) -> dict[str, Any]:
    """Return counts, sizes and failures of the proposals of `source`, ready for JSON.

    Raises:
        DataError: The proposals have not been built.
    """
    proposals = proposer.open(source)
    boxes, counts = _arrays(proposals)
    figures = {"proposer": proposer.name, **_counts(counts), **_sizes(boxes)}
    if isinstance(proposer, StoredProposer) and isinstance(proposals, MappedProposals):
        figures |= _few(counts, proposer.rules.enough)
        figures |= {"min_side": _count_rungs(np.asarray(proposals.rungs), proposer.rules)}
        figures |= _origins(source, proposer.store(source))
    return figures


def _arrays(proposals: Proposals) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return all boxes, and the number of boxes of each image."""
    if isinstance(proposals, MappedProposals):
        return np.asarray(proposals.boxes, np.float32), np.diff(proposals.offsets)
    boxes = [proposals[index] for index in range(len(proposals))]
    return np.concatenate([np.zeros((0, 4), np.float32), *boxes]), np.array(list(map(len, boxes)), np.int64)


def _counts(counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    spread = {name: float(np.quantile(counts, share)) if len(counts) else 0.0 for name, share in QUANTILES.items()}
    mean = float(counts.mean()) if len(counts) else 0.0
    return {"images": len(counts), "boxes": int(counts.sum()), "per_image": {**spread, "mean": round(mean, 2)}}


def _few(counts: npt.NDArray[np.int64], enough: int) -> dict[str, Any]:
    return {"enough": enough, "images_with_fewer": int((counts < enough).sum())}


def _sizes(boxes: npt.NDArray[np.float32]) -> dict[str, Any]:
    size = boxes[:, 2:] - boxes[:, :2]
    return {"shorter_side": _histogram(size.min(axis=1)), "root_of_area": _histogram(np.sqrt(size.prod(axis=1)))}


def _histogram(values: npt.NDArray[np.float32]) -> dict[str, int]:
    counts = np.histogram(values, [*SIDES, np.inf])[0]
    names = [f"{low}-{high - 1}" for low, high in pairwise(SIDES)] + [f"{SIDES[-1]}-"]
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _count_rungs(rungs: npt.NDArray[np.uint8], rules: Rules) -> dict[str, int]:
    """Count images by the minimum side that was applied."""
    names = {rung: str(side) for rung, side in enumerate(rules.min_sides)}
    names |= {SHRUNK: "shrunk", FIRST: "first raw region", WHOLE: "whole image", NOTHING: "unreadable"}
    return {name: int((rungs == rung).sum()) for rung, name in names.items()}


def _origins(source: Source, store: Store) -> dict[str, Any]:
    """Count raw regions by origin, and list the images that failed."""
    imported, reduced, regions, failed = 0, 0, 0, []
    for part in store.parts:
        summary = shards.load_summary(store.path(part))
        imported += int((summary.origins == shards.IMPORTED).sum())
        reduced += sum(store.search.scale(*size) < 1 for size in summary.sizes.tolist() if min(size))
        regions += int(summary.offsets[-1])
        first = store.members(part).start
        failed += [
            {"key": source.key(first + row), "reason": reason} for row, reason in enumerate(summary.reasons) if reason
        ]
    totals = {"raw_regions": regions, "images_imported": imported, "images_reduced": reduced}
    return {**totals, "folder": str(store.folder), "unreadable": failed}


def report(source: Source, proposer: Proposer) -> Iterator[str]:
    """Summarise a finished build in a few lines."""
    figures = describe(source, proposer)
    yield f"{figures['boxes']:,} proposals of {figures['images']:,} images"
    if "folder" in figures:
        yield f"stored in {figures['folder']}"
    failed = figures.get("unreadable", [])
    if failed:
        yield f"{len(failed)} images failed and have no proposals (for the full list: sslkit proposals stats):"
        yield from (f"  {one['key']}: {one['reason']}" for one in failed[:10])


def tables(figures: Mapping[str, Any]) -> Group:
    """Return the figures of `describe` as tables for a terminal."""
    parts: list[RenderableType] = [_table("proposals", _overview(figures))]
    for key, title in (("min_side", "images, by minimum side"), ("shorter_side", "boxes, by shorter side in pixels")):
        if key in figures:
            parts.append(_table(title, _histogram_rows(figures[key])))
    parts.append(_table("boxes, by square root of area in pixels", _histogram_rows(figures["root_of_area"])))
    if figures.get("unreadable"):
        parts.append(_table("unreadable", [(one["key"], one["reason"]) for one in figures["unreadable"]]))
    return Group(*parts)


def _overview(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "images", f"{figures['images']:,}"
    yield "boxes", f"{figures['boxes']:,}"
    yield "boxes per image", ", ".join(f"{name} {value:g}" for name, value in figures["per_image"].items())
    if "enough" in figures:
        yield f"images with fewer than {figures['enough']}", f"{figures['images_with_fewer']:,}"
        yield "raw regions", f"{figures['raw_regions']:,}"
        yield "images imported", f"{figures['images_imported']:,}"
        yield "images reduced for the search", f"{figures['images_reduced']:,}"
        yield "folder", figures["folder"]


def _histogram_rows(bins: Mapping[str, int]) -> Sequence[tuple[str, str]]:
    total = max(sum(bins.values()), 1)
    bars = {name: "█" * round(30 * count / total) for name, count in bins.items()}
    return [(name, f"{count:>9,} {count / total:>6.1%} {bars[name]}") for name, count in bins.items()]


def _table(title: str, rows: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    return table
