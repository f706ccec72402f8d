"""Time variants of the same work in turn, and format the figures: ratios first."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

Row = dict[str, Any]
"""`what`, `variant`, `median_s`, `low_s` and `high_s` (the quartiles), `n`."""
Lanes = Mapping[str, Callable[[], object]]
"""Variant -> the function to time."""
LIBRARIES = (
    "sslkit", "torch", "torchvision", "lightly", "pot", "numpy", "pillow", "simplejpeg",
    "opencv-contrib-python-headless", "opencv-python-headless",
)  # fmt: skip


def interleaved(what: str, lanes: Lanes, n: int, units: int = 1, warm: int = 1) -> list[Row]:
    """Call every lane in turn, there and back again; the first rounds warm up and are not counted.

    Args:
        what: Name of the work, the same in all lanes.
        lanes: Variants.
        n: Timed rounds.
        units: Units of work in a call; seconds are per unit.
        warm: Rounds before these, which are not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in lanes}
    for number in range(warm + n):
        for name in lanes if number % 2 else reversed(lanes):
            began = time.perf_counter()
            lanes[name]()
            if number >= warm:
                seconds[name].append((time.perf_counter() - began) / units)
    return [row(what, name, taken) for name, taken in seconds.items()]


@contextmanager
def apart(lanes: Mapping[str, tuple[Callable[..., Callable[[], object]], tuple[Any, ...]]]) -> Iterator[Lanes]:
    """Run every lane in a process of its own, so that its settings do not reach the others.

    Args:
        lanes: Variant -> a function that makes the function to time, and its argument; both must be picklable.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        made = {}
        for name, (make, given) in lanes.items():
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, make, given), daemon=False)
            process.start()
            stack.callback(process.join)
            stack.callback(here.send, "end")
            made[name] = partial(_ask, here)
        for ask in made.values():  # a lane that cannot be made ends all before anything is timed
            ask("ready?")
        yield made


def _ask(pipe: Connection, what: str = "go") -> None:
    pipe.send(what)
    if fault := pipe.recv():
        raise RuntimeError(fault)


def _serve(pipe: Connection, make: Callable[..., Callable[[], object]], given: tuple[Any, ...]) -> None:
    try:
        work = make(*given)
    except Exception:
        pipe.recv()
        return pipe.send(traceback.format_exc())
    while (asked := pipe.recv()) != "end":
        fault = ""
        try:
            if asked == "go":
                work()
        except Exception:
            fault = traceback.format_exc()
        pipe.send(fault)
    return None


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
    """Format rows as a Markdown table: each beside the first of its kind."""
    lines = ["| variant | ratio | median | quartiles | n |", "| --- | ---: | ---: | ---: | ---: |"]
    first = rows[0]["median_s"]
    for item in rows:
        low, middle, high = (duration(item[f"{name}_s"]) for name in ("low", "median", "high"))
        share = first / item["median_s"]
        lines.append(f"| {item['variant']} | {share:.3g}x | {middle} | {low} to {high} | {item['n']} |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Format seconds in a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def machine() -> dict[str, str]:
    """Return machine, system, versions and date of the measurement."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(versions()),
        "date": time.strftime("%Y-%m-%d"),
    }


def versions() -> Iterator[str]:
    """Yield name and version of the libraries that are installed."""
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
