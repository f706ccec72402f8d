"""Show the results of runs, of probes and of a check of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sslkit.cli.show.tables import make_table, print_parts
from sslkit.contracts.scores import is_rate
from sslkit.probes.evaluate import ProbeScores
from sslkit.probes.measure import Measurement
from sslkit.storage.run_folder import BAD_IMAGES
from sslkit.training.result import Result


def describe_result(result: Result) -> dict[str, Any]:
    """Describe the result of a run."""
    return {
        "folder": str(result.folder),
        "state": result.state,
        "step": result.step,
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "seconds": round(result.seconds, 1),
        "bad_images": result.bad,
        "terms": result.terms,
        "probes": result.probes,
        "verdict": result.verdict.describe() if result.verdict else None,
    }


def print_result(result: Result) -> None:
    """Print the table of probes, the verdict and the folder that holds everything."""
    if result.probes:
        print_parts(probe_table(result.probes))
    if result.verdict:
        print_parts(f"{result.verdict}")
    if result.state == "finished" and result.resumed_from == result.steps:
        print_parts(f"{result.folder} is already finished ({result.steps} steps); nothing was trained")
        return
    if result.bad:
        listing = result.folder / BAD_IMAGES
        print_parts(f"{result.bad} images could not be used and were replaced; {listing} lists them")
    progress = f"{result.step} of {result.steps} steps in {result.seconds:.0f} s"
    print_parts(f"{result.state}: {progress}; everything is in {result.folder}")


def probe_table(probes: Mapping[str, ProbeScores]) -> Table:
    """Lay out the scores of probes: one row per probe and metric, one column per set of features."""
    rows = dict.fromkeys((name, metric) for scores in probes.values() for name in scores for metric in scores[name])
    table = make_table("Frozen features", "probe", "metric", *probes, left=2)
    last = None
    for name, metric in rows:
        if last not in (None, name):
            table.add_section()
        cells = [_cell(metric, scores.get(name, {}).get(metric)) for scores in probes.values()]
        table.add_row("" if name == last else name, metric.replace("_", " "), *cells)
        last = name
    return table


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    if metric.startswith("count_"):
        return f"{value:.0f}"
    return f"{100 * value:.1f} %" if is_rate(metric) else f"{value:g}"


def describe_measurement(measurement: Measurement) -> dict[str, Any]:
    """Describe the scores of some weights."""
    return {
        "weights": measurement.weights,
        "partial": measurement.partial,
        "written": str(measurement.written) if measurement.written else None,
        "probes": measurement.probes,
    }


def print_measurement(measurement: Measurement) -> None:
    """Print the scores, next to those that the run's folder already holds."""
    print_parts(probe_table(measurement.shown))
    where = f"written to {measurement.written}" if measurement.written else "not written anywhere"
    print_parts(f"measured {measurement.weights}; {where}")


def print_bad_images(images: int, rows: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Print each image that cannot be used, and how many of `images` they are."""
    print_parts(*(row["reason"] for row in rows))
    where = f"; the list is in {out}" if out else ""
    print_parts(f"{len(rows)} of {images} images cannot be used{where}" if rows else f"all {images} images can be used")


def print_frames(frames: Mapping[str, int]) -> None:
    """Print how many images EXIF turns upright, with their boxes, and how many have another size than annotated."""
    boxes = [
        f"the boxes of {frames[key]} {what}"
        for key, what in (("boxes_turned", "were turned with them"), ("boxes_upright", "were upright already"))
        if frames[key]
    ]
    if frames["turned"]:
        print_parts("; ".join([f"{frames['turned']} images are turned upright by EXIF", *boxes]))
    if frames["wrong_sizes"]:
        print_parts(f"{frames['wrong_sizes']} images have another size than their annotations say")


def print_objects(objects: int, left_out: Mapping[str, int]) -> None:
    """Print the number of labelled objects, and how many of what was left out; nothing if there are none."""
    if objects or left_out:
        parts = ", ".join(f"{count} {what}" for what, count in left_out.items())
        print_parts(f"{objects} labelled objects{f'; left out: {parts}' if parts else ''}")
