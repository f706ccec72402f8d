"""Times variants of the same work in turn, and tells the figures: ratios first."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

Row = dict[str, Any]
"""`what`, `variant`, `median_s`, `low_s` and `high_s` (the quartiles), `n`."""
LIBRARIES = (
    "sslkit", "torch", "torchvision", "lightly", "pot", "numpy", "pillow", "simplejpeg",
    "opencv-contrib-python-headless",
)  # fmt: skip


def interleaved(
    what: str, lanes: Mapping[str, Callable[[], object]], n: int, units: int = 1, warm: int = 1
) -> list[Row]:
    """Call every lane in turn, there and back again; the first rounds warm up and are not counted.

    Args:
        what: Is the same in all lanes.
        lanes: Variants.
        n: Rounds that are timed.
        units: Of work in a call; seconds are told for one.
        warm: Rounds that are not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in lanes}
    for number in range(warm + n):
        for name in lanes if number % 2 else reversed(lanes):
            began = time.perf_counter()
            lanes[name]()
            if number >= warm:
                seconds[name].append((time.perf_counter() - began) / units)
    return [row(what, name, taken) for name, taken in seconds.items()]


def row(what: str, variant: str, seconds: Sequence[float]) -> Row:
    """Summarise the seconds that a variant took."""
    low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    return {
        "what": what, "variant": variant, "median_s": median(seconds), "low_s": low, "high_s": high, "n": len(seconds),
    }  # fmt: skip


def ratio(rows: Sequence[Row], slow: str, fast: str) -> float:
    """Return how many times as long one variant takes as another."""
    medians = {item["variant"]: item["median_s"] for item in rows}
    return float(medians[slow] / medians[fast])


def table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table: each beside the first of its kind."""
    lines = ["| variant | ratio | median | quartiles | n |", "| --- | ---: | ---: | ---: | ---: |"]
    first = rows[0]["median_s"]
    for item in rows:
        low, middle, high = (duration(item[f"{name}_s"]) for name in ("low", "median", "high"))
        share = first / item["median_s"]
        lines.append(f"| {item['variant']} | {share:.3g}x | {middle} | {low} to {high} | {item['n']} |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Write seconds in a unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def machine() -> dict[str, str]:
    """Say on what this is measured, with what, and when."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
