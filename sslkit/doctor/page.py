"""What `sslkit doctor` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sslkit.data.loader import AHEAD
from sslkit.doctor.advice import WAITS
from sslkit.doctor.examination import Examination
from sslkit.doctor.outlook import total
from sslkit.progress import make_console


def of_examination(found: Examination) -> dict[str, Any]:
    """Describe an examination; seconds, bytes, and photos per second."""
    steps, figures = found.steps, found.figures
    hours, disk = total(found.arms, found.seeds)
    return {
        "recipe": found.name,
        "device": found.device,
        "processes": figures.processes,
        "workers": figures.workers,
        "batch_size": figures.batch_size,
        "precision": figures.precision,
        "skipped": found.skipped,
        "step": {
            "timed": steps.count, "seconds": steps.seconds, "fastest": steps.fastest, "slowest": steps.slowest,
            "waiting": steps.waiting, "images_per_s": figures.batch_size / steps.seconds,
            "sections": dict(steps.sections), "seconds_in_sections": steps.apart, "monitored": steps.monitored,
        },
        "photo": {
            "timed": found.photo.count, "seconds": found.photo.seconds, "sections": dict(found.photo.sections),
            "decoded_bytes": found.photo.decoded, "bytes": found.photo.made,
        },
        "rates": {"step": found.first.step, "loader": found.loader, "core": 1 / found.photo.seconds},
        "in_the_long_run": {
            "waits": found.first.waits, "waiting": found.first.waiting, "images_per_s": found.first.now,
            "from_the_second_epoch_on": figures.now,
        },
        "memory": {**asdict(found.memory), "pipeline": found.pipeline},
        "utilisation": found.peak and {
            "peak": found.peak.flops, "of": found.peak.of, "flops_per_image": found.arms[0].cost.flops,
            "used": found.used, "used_without_waiting": found.used_busy,
        },
        "precisions": dict(figures.precisions),
        "advice": [asdict(one) for one in found.advice],
        "arms": [
            {
                "arm": arm.name, "gflops_per_image": arm.cost.flops / 1e9, "images_per_s": arm.images_per_s,
                "images": arm.images, "hours": arm.hours, "disk": arm.disk,
            }
            for arm in found.arms
        ],
        "no_arms": found.no_arms,
        "seeds": found.seeds,
        "total": {"hours": hours, "disk": disk},
    }  # fmt: skip


def print_examination(found: Examination, console: Console | None = None) -> None:
    """Print a page: where the time goes, what waits, memory, utilisation, advice, and what all of it takes."""
    console = console or make_console(stderr=False)
    _head(console, found)
    _heading(console, "Where a step's time goes")
    console.print(_step_table(found))
    _say(console, *_about_steps(found))
    _heading(console, f"A photo on its way into a batch, on one core ({found.photo.count} photos)")
    console.print(_shared(found.photo.sections, 2))
    _heading(console, "Which side waits")
    _say(console, *_sides(found))
    _heading(console, "Memory and utilisation")
    _say(console, *_memory(found), *_utilisation(found))
    _heading(console, "What to change")
    _advice(console, found)
    _heading(console, "What the whole recipe takes, and each arm without an objective")
    console.print(_arms_table(found))
    _say(console, *_about_arms(found))


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def _head(console: Console, found: Examination) -> None:
    figures = found.figures
    processes = f"{_count(figures.processes, 'process', 'es')} with {_count(figures.workers, 'loader process', 'es')}"
    each = " each" if figures.processes > 1 else ""
    what = f"{found.name}: {found.steps.count} steps of {figures.batch_size} photos, {figures.precision}"
    console.print(Text(f"{what}, on {found.device}, {processes}{each}"))
    if found.skipped:
        told = (
            f"{_count(found.skipped, 'photo')} could not be used and were replaced; `sslkit data check` finds all such"
        )
        console.print(Text(told))


def _table(*columns: str) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=bool(number))
    return table


def _shared(seconds: Mapping[str, float], digits: int) -> Table:
    """Lay out sections with their shares, and the sum."""
    table = _table("section", "ms", "share")
    for (name, value), share in zip(seconds.items(), shares(list(seconds.values())), strict=True):
        table.add_row(name, f"{1e3 * value:,.{digits}f}", f"{share:.1f} %")
    table.add_section()
    table.add_row("all", f"{1e3 * math.fsum(seconds.values()):,.{digits}f}", "100.0 %")
    return table


def shares(values: Sequence[float]) -> list[float]:
    """Return percentages with one decimal that add up to 100: the largest remainders are rounded up."""
    total = math.fsum(values)
    if not total:
        return [0.0] * len(values)
    exact = [1000 * value / total for value in values]
    whole = [math.floor(value) for value in exact]
    places = sorted(range(len(values)), key=lambda place: whole[place] - exact[place])
    for place in places[: 1000 - sum(whole)]:
        whole[place] += 1
    return [value / 10 for value in whole]


def _step_table(found: Examination) -> Table:
    return _shared(found.steps.sections, 0 if found.steps.apart > 10 else 1)


def _about_steps(found: Examination) -> Iterator[str]:
    steps, figures = found.steps, found.figures
    rate = _rate(figures.batch_size / steps.seconds)
    spread = f"a step takes {_seconds(steps.seconds)} ({_seconds(steps.fastest)} to {_seconds(steps.slowest)})"
    if steps.fastest == steps.slowest:
        spread = (
            f"steps that run ahead of the GPU take {_seconds(steps.seconds)} each; cut into sections, which are waited "
            f"for, {_seconds(steps.apart)}: the difference is overlap"
        )
    yield f"{rate} photos/s: {spread}"
    if figures.monitor_every and steps.monitored:
        share = steps.monitored / figures.monitor_every / (steps.seconds + steps.monitored / figures.monitor_every)
        longer = f"{_seconds(steps.monitored)} longer, for ranks and the conflict map"
        yield f"every {figures.monitor_every}th step takes {longer}: {share:.1%} of the time"


def _sides(found: Examination) -> Iterator[str]:
    first, figures, timed = found.first, found.figures, found.steps.waiting / found.steps.seconds
    share = first.waiting / (first.busy + first.waiting)
    yield f"the step: {_rate(first.step)} photos/s when it need not wait"
    workers = _count(first.workers * first.processes, "loader process", "es") if first.workers else "this process"
    yield f"the loader: {_rate(first.loader)} photos/s by {workers}, alone; one core makes {_rate(1 / first.photo)}"
    if first.on_cpu and first.workers:
        yield f"both share {_count(first.cores, 'core')}, so that neither is as fast beside the other"
    if not first.workers:
        yield f"there is no loader process: {share:.1%} of a step is making its batch"
    elif first.waits and first.loader > first.step:
        why = "both need the same cores" if first.on_cpu else "batches come unevenly"
        yield f"the step waits {share:.1%} of the time, though the loader alone is faster: {why}"
    elif first.waits:
        faster = first.step / first.now
        yield f"the loader is the limit: the step waits {share:.1%} of the time; fed well, it is {faster:.2f} x as fast"
    else:
        spare = first.loader / first.step
        yield f"the step is the limit: it waits {share:.1%} of the time; the loader alone is {spare:.1f} times as fast"
    if share > timed + WAITS:
        yield f"these few steps waited {timed:.1%}, as batches were made ahead; in the end the loader decides"
    if figures.cache_gb:
        yield (
            f"from the second epoch on, with --cache-gb {figures.cache_gb:g}: the loader makes {_rate(figures.loader)} "
            f"photos/s, and a step takes {_seconds(figures.busy + figures.waiting)}"
        )


def _memory(found: Examination) -> Iterator[str]:
    held, workers = found.memory, found.figures.workers
    if held.device is not None and held.device_total is not None:
        yield f"GPU: {_bytes(held.device)} at the peak, of {_bytes(held.device_total)}"
    if held.process is not None:
        each = f"; the largest loader process {_bytes(held.workers)}, with what it shares" if held.workers else ""
        yield f"resident at the peak: this process {_bytes(held.process)}{each}"
    buffers = f"{AHEAD} x {_count(workers, 'loader process', 'es')} + 1 in use" if workers else "1 in use"
    pinned = ", each once more where it is pinned" if held.device is not None else ""
    yield f"batches hold at most {_bytes(found.pipeline)}: {buffers}{pinned}; {_bytes(found.photo.made)} a photo"
    if found.figures.cache_gb:
        yield f"decoded photos: at most {found.figures.cache_gb:g} GB more, by --cache-gb"


def _utilisation(found: Examination) -> Iterator[str]:
    if found.peak is None:
        return
    flops = found.arms[0].cost.flops
    yield (
        f"model FLOPs utilisation: {found.used:.1%} of {found.peak.of} ({_flops(found.peak.flops)}); "
        f"{found.used_busy:.1%} while it does not wait"
    )
    yield f"an image takes {flops / 1e9:.3g} GFLOPs, forward and backward"


def _advice(console: Console, found: Examination) -> None:
    if not found.advice:
        _say(console, "nothing: by these figures no setting brings 5 % or more")
        return
    for number, one in enumerate(found.advice, 1):
        _say(console, f"{number}. {one.change}: {one.gain:.2f} times as many photos/s")
        console.print(Padding(Text(one.why), (0, 0, 0, 5), expand=False))
    if len(found.advice) > 1:
        _say(console, "each gain is what the change brings alone")


def _arms_table(found: Examination) -> Table:
    table = _table("arm", "FLOPs", "photos/s", "time", "disk")
    full = found.arms[0].cost.flops
    for arm in found.arms:
        table.add_row(
            arm.name, f"{arm.cost.flops / full:.0%}", _rate(arm.images_per_s), _time(arm.hours), _bytes(arm.disk)
        )
    return table


def _about_arms(found: Examination) -> Iterator[str]:
    yield "a run; without probes and checkpoints. Arms: networks by their operations, the loader by its photos, timed"
    if found.no_arms:
        yield f"no arms: {found.no_arms}"
    hours, disk = total(found.arms, found.seeds)
    runs = len(found.arms) * found.seeds
    if runs > 1:
        seeds = f"{_count(len(found.arms), 'arm')} x {_count(found.seeds, 'seed')}"
        yield f"{seeds}: {runs} runs, {_time(hours)} one after another, {_bytes(disk)} on disk"


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural * (number != 1)}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _bytes(value: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 2**10:.3g} KiB"


def _flops(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"
