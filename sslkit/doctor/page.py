"""Print the page of `sslkit doctor`, or describe it for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sslkit.data.loader import BATCHES_AHEAD
from sslkit.doctor.advice import WAITS, Measurements
from sslkit.doctor.examination import Examination
from sslkit.doctor.outlook import total
from sslkit.progress import make_console


def of_examination(examination: Examination) -> dict[str, Any]:
    """Describe an examination as JSON values, in seconds, bytes and images per second."""
    steps, first, measured = examination.steps, examination.first_epoch, examination.measured
    image, peak = examination.image, examination.peak
    hours, disk = total(examination.arms, examination.seeds)
    return {
        "recipe": examination.name,
        "device": examination.device,
        "processes": measured.world_size,
        "workers": measured.workers,
        "batch_size": measured.batch_size,
        "precision": measured.precision,
        "skipped": examination.skipped,
        "step": {
            "timed": steps.count, "seconds": steps.seconds, "fastest": steps.fastest, "slowest": steps.slowest,
            "waiting": steps.waiting, "images_per_s": measured.batch_size / steps.seconds,
            "sections": dict(steps.sections), "seconds_in_sections": steps.apart, "monitored": steps.monitored,
        },
        "photo": {
            "timed": image.count, "seconds": image.seconds, "sections": dict(image.sections),
            "decoded_bytes": image.decoded, "bytes": image.in_batch,
        },
        "rates": {"step": first.step_rate, "loader": examination.loader_rate, "core": 1 / image.seconds},
        "in_the_long_run": {
            "waits": first.waits, "waiting": first.waiting, "images_per_s": first.rate,
            "from_the_second_epoch_on": measured.rate,
        },
        "memory": {**asdict(examination.memory), "pipeline": examination.pipeline},
        "utilisation": peak and {
            "peak": peak.flops, "of": peak.of, "flops_per_image": examination.arms[0].cost.flops,
            "used": examination.used, "used_without_waiting": examination.used_busy,
        },
        "precisions": dict(measured.precisions),
        "advice": [asdict(item) for item in examination.advice],
        "arms": [
            {
                "arm": arm.name, "gflops_per_image": arm.cost.flops / 1e9, "images_per_s": arm.images_per_s,
                "images": arm.images, "hours": arm.hours, "disk": arm.disk,
            }
            for arm in examination.arms
        ],
        "no_arms": examination.no_arms,
        "seeds": examination.seeds,
        "total": {"hours": hours, "disk": disk},
    }  # fmt: skip


def print_examination(examination: Examination, console: Console | None = None) -> None:
    """Print an examination: where the time goes, which side waits, memory, utilisation, advice, and the total cost."""
    console = console or make_console(stderr=False)
    _print_head(console, examination)
    _print_heading(console, "Where a step's time goes")
    console.print(_step_table(examination))
    _print_lines(console, *_about_steps(examination))
    _print_heading(console, f"Loading an image into a batch, on one core ({examination.image.count} images)")
    console.print(_section_table(examination.image.sections, 2))
    _print_heading(console, "Which side waits")
    _print_lines(console, *_about_waiting(examination))
    _print_heading(console, "Memory and utilisation")
    _print_lines(console, *_about_memory(examination), *_about_utilisation(examination))
    _print_heading(console, "What to change")
    _print_advice(console, examination)
    _print_heading(console, "The whole recipe, and each arm without an objective")
    console.print(_arms_table(examination))
    _print_lines(console, *_about_arms(examination))


def _print_heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _print_lines(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def _print_head(console: Console, examination: Examination) -> None:
    measured, skipped = examination.measured, examination.skipped
    ranks = f"{_count(measured.world_size, 'rank')} with {_count(measured.workers, 'loader process', 'es')}"
    each = " each" if measured.world_size > 1 else ""
    steps = f"{examination.steps.count} steps of {measured.batch_size} images"
    console.print(Text(f"{examination.name}: {steps}, {measured.precision}, on {examination.device}, {ranks}{each}"))
    if skipped:
        were = "was" if skipped == 1 else "were"
        console.print(
            Text(
                f"{_count(skipped, 'image')} could not be used and {were} replaced; `sslkit data check` finds all such"
            )
        )


def _table(*columns: str) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=bool(number))
    return table


def _section_table(seconds: Mapping[str, float], digits: int) -> Table:
    """Return a table of sections with their shares, and the sum."""
    table = _table("section", "ms", "share")
    for (name, value), share in zip(seconds.items(), shares(list(seconds.values())), strict=True):
        table.add_row(name, f"{1e3 * value:,.{digits}f}", f"{share:.1f} %")
    table.add_section()
    table.add_row("all", f"{1e3 * math.fsum(seconds.values()):,.{digits}f}", "100.0 %")
    return table


def shares(values: Sequence[float]) -> list[float]:
    """Return percentages with one decimal that add up to 100, by rounding up the largest remainders."""
    total = math.fsum(values)
    if not total:
        return [0.0] * len(values)
    exact = [1000 * value / total for value in values]
    whole = [math.floor(value) for value in exact]
    places = sorted(range(len(values)), key=lambda place: whole[place] - exact[place])
    for place in places[: 1000 - sum(whole)]:
        whole[place] += 1
    return [value / 10 for value in whole]


def _step_table(examination: Examination) -> Table:
    steps = examination.steps
    return _section_table(steps.sections, 0 if steps.apart > 10 else 1)


def _about_steps(examination: Examination) -> Iterator[str]:
    steps, measured = examination.steps, examination.measured
    rate = _rate(measured.batch_size / steps.seconds)
    time = f"a step takes {_seconds(steps.seconds)} ({_seconds(steps.fastest)} to {_seconds(steps.slowest)})"
    if steps.fastest == steps.slowest:
        time = (
            f"steps that run ahead of the GPU take {_seconds(steps.seconds)} each; waiting for the GPU after every "
            f"section, {_seconds(steps.apart)}: the difference is overlap"
        )
    yield f"{rate} images/s: {time}"
    if measured.monitor_every and steps.monitored:
        share = steps.monitored / measured.monitor_every / (steps.seconds + steps.monitored / measured.monitor_every)
        extra = f"{_seconds(steps.monitored)} longer, for effective ranks and the conflict map"
        yield f"every {measured.monitor_every}th step takes {extra}: {share:.1%} of the time"


def _about_waiting(examination: Examination) -> Iterator[str]:
    first, measured = examination.first_epoch, examination.measured
    timed = examination.steps.waiting / examination.steps.seconds
    share = first.waiting / (first.busy + first.waiting)
    yield f"the step: {_rate(first.step_rate)} images/s when it never waits"
    workers = _count(first.workers * first.world_size, "loader process", "es") if first.workers else "this process"
    one_core = _rate(1 / first.per_image)
    yield f"the loader: {_rate(first.loader_rate)} images/s with {workers}, on its own; one core loads {one_core}"
    if first.workers and first.shares_cores(first.workers):
        yield f"both share {_count(first.cores, 'core')}, so that each is slower than alone"
    yield _bottleneck(first, share)
    if share > timed + WAITS:
        yield (
            f"these few steps waited only {timed:.1%}, as batches were loaded ahead; in a long run the loader decides"
        )
    if measured.cache_gb:
        yield (
            f"from the second epoch on, with --cache-gb {measured.cache_gb:g}: the loader loads "
            f"{_rate(measured.loader_rate)} images/s, and a step takes {_seconds(measured.busy + measured.waiting)}"
        )


def _bottleneck(first: Measurements, share: float) -> str:
    """Say which side is the bottleneck, where the step waits for a `share` of its time."""
    if not first.workers:
        return f"there are no loader processes: {share:.1%} of a step goes into loading its batch"
    if first.waits and first.loader_rate > first.step_rate:
        why = "both need the same cores" if first.shares_cores(first.workers) else "batches come unevenly"
        return f"the step waits {share:.1%} of the time, although the loader alone is faster: {why}"
    if first.waits:
        faster = first.step_rate / first.rate
        return (
            f"the loader is the bottleneck: the step waits {share:.1%} of the time; without waiting it would be "
            f"{faster:.2f} x as fast"
        )
    spare = first.loader_rate / first.step_rate
    return f"the step is the bottleneck: it waits {share:.1%} of the time; the loader alone is {spare:.1f} x as fast"


def _about_memory(examination: Examination) -> Iterator[str]:
    memory, measured, image = examination.memory, examination.measured, examination.image
    if memory.device is not None and memory.device_total is not None:
        yield f"GPU: {_bytes(memory.device)} at the peak, of {_bytes(memory.device_total)}"
    if memory.process is not None:
        each = (
            f"; the largest loader process {_bytes(memory.workers)}, shared memory included" if memory.workers else ""
        )
        yield f"resident at the peak: this process {_bytes(memory.process)}{each}"
    workers = measured.workers
    buffers = f"{BATCHES_AHEAD} x {_count(workers, 'loader process', 'es')} + 1 in use" if workers else "1 in use"
    pinned = ", each twice if it is pinned" if memory.device is not None else ""
    yield (
        f"batches take at most {_bytes(examination.pipeline)}: {buffers}{pinned}; {_bytes(image.in_batch)} per image"
    )
    if measured.cache_gb:
        yield f"decoded images: at most {measured.cache_gb:g} GB more, from --cache-gb"


def _about_utilisation(examination: Examination) -> Iterator[str]:
    peak = examination.peak
    if peak is None:
        return
    flops = examination.arms[0].cost.flops
    yield (
        f"model FLOPs utilisation: {examination.used:.1%} of {peak.of} ({_flops(peak.flops)}); "
        f"{examination.used_busy:.1%} while it does not wait"
    )
    yield f"an image takes {flops / 1e9:.3g} GFLOPs, forward and backward"


def _print_advice(console: Console, examination: Examination) -> None:
    if not examination.advice:
        _print_lines(console, "nothing: by these measurements no setting gains 5 % or more")
        return
    for number, item in enumerate(examination.advice, 1):
        _print_lines(console, f"{number}. {item.change}: {item.gain:.2f} times as many images/s")
        console.print(Padding(Text(item.why), (0, 0, 0, 5), expand=False))
    if len(examination.advice) > 1:
        _print_lines(console, "each gain is for that change alone")


def _arms_table(examination: Examination) -> Table:
    table = _table("arm", "FLOPs", "images/s", "time", "disk")
    full = examination.arms[0].cost.flops
    for arm in examination.arms:
        table.add_row(
            arm.name, f"{arm.cost.flops / full:.0%}", _rate(arm.images_per_s), _time(arm.hours), _bytes(arm.disk)
        )
    return table


def _about_arms(examination: Examination) -> Iterator[str]:
    arms, seeds = examination.arms, examination.seeds
    yield (
        "per run, without probes and checkpoints. The arms' networks are scaled by their operations; the loading of "
        "their images is timed"
    )
    if examination.no_arms:
        yield f"no other arms: {examination.no_arms}"
    hours, disk = total(arms, seeds)
    runs = len(arms) * seeds
    if runs > 1:
        factors = f"{_count(len(arms), 'arm')} x {_count(seeds, 'seed')}"
        yield f"{factors}: {runs} runs, {_time(hours)} one after another, {_bytes(disk)} on disk"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural * (number != 1)}"


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
