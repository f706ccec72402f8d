"""The page that `sslkit doctor` prints."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sslkit.doctor import page as diagnosis
from sslkit.doctor.advice import Advice, Measurements
from sslkit.doctor.examination import Examination
from sslkit.doctor.loading import ImageTiming
from sslkit.doctor.memory import Memory
from sslkit.doctor.outlook import ArmOutlook
from sslkit.doctor.peaks import Peak
from sslkit.doctor.steps import Steps
from sslkit.networks.cost import Cost

SECTIONS = {"waiting for data": 0.1, "objective instance-instance": 0.1, "backward": 0.1, "the rest": 0.0004}


def examination(**changes: Any) -> Examination:
    """Return an examination of a step that takes 300.4 ms, a third of it waiting."""
    first = Measurements(
        cores=2, on_cpu=True, threads=2, world_size=1, workers=1, batch_size=30, busy=0.2004, waiting=0.1, networks=0.2,
        per_image=0.01, decoding=0.004, loader_rate=100.0, decoded_gb=1.0, cache_gb=0.0, free_gb=8.0, epochs=3.0,
        precision="32-true", precisions={"32-true": 0.1}, monitor_every=50, monitored=0.3,
    )  # fmt: skip
    values: dict[str, Any] = {
        "name": "mine", "device": "cpu (x86_64, 2 threads)",
        "steps": Steps(20, 0.3004, 0.29, 0.31, 0.1, SECTIONS, 0.3004, 0.3),
        "image": ImageTiming(64, {"read": 0.004, "cut": 0.006}, 4e5, 3e5), "loader_rate": 100.0,
        "memory": Memory(None, None, 2**30, 2**29, 2**33), "pipeline": 5 * 2**20, "first_epoch": first,
        "measured": first, "skipped": 0, "images": 500, "peak": Peak(1e11, "what a product reaches here"),
        "used": 0.4, "used_busy": 0.6,
        "arms": (
            ArmOutlook("full", Cost(10**9, 1, 1), 0.01, 100.0, 1500, 0.5, 2**20),
            ArmOutlook("drop-a", Cost(5 * 10**8, 1, 1), 0.01, 150.0, 1500, 99.0, 2**31),
        ),
    }  # fmt: skip
    return Examination(**(values | changes))


def page(examined: Examination, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    diagnosis.print_examination(examined, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def words_of(**changes: Any) -> str:
    """Return the page of a changed examination, on one line."""
    return " ".join(page(examination(**changes)).split())


@pytest.mark.parametrize("values", [[1, 1, 1], [0.1, 0.1, 0.1, 0.0004], [3.0], [1e-9, 1.0, 2.0, 3.0, 1e9]])
def test_shares_are_rounded_so_that_they_add_up(values):
    shown = diagnosis.shares(values)
    assert sum(round(10 * share) for share in shown) == 1000
    assert shown == pytest.approx([100 * value / sum(values) for value in values], abs=0.1)


def test_the_page_shows_everything_and_fits():
    text = page(examination(advice=(Advice("--workers 2", "the loader is the bottleneck", 1.5),)))
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "mine: 20 steps of 30 images, 32-true, on cpu", "99.9 images/s: a step takes 300 ms (290 ms to 310 ms)",
        "1 rank with 1 loader process", "every 50th step takes 300 ms longer", "on one core (64 images)",
        "the loader is the bottleneck: the step waits 33.3% of the time; without waiting it would be 1.50 x", "1 GiB",
        "batches take at most 5 MiB: 2 x 1 loader process + 1 in use", "40.0% of what a product reaches here",
        "1. --workers 2: 1.50 times as many images/s", "drop-a", "4.1 days", "30.0 min",
        "2 arms x 1 seed: 2 runs, 4.1 days one after another, 2 GiB on disk",
    ):  # fmt: skip
        assert words in " ".join(text.split()), words


def test_the_page_adapts_to_the_measurements():
    default = examination()
    first, steps = default.first_epoch, default.steps
    assert "nothing: by these measurements no setting gains 5 % or more" in words_of()
    fast = replace(first, waiting=0.0, loader_rate=450.0)
    text = words_of(first_epoch=fast, measured=fast, steps=replace(steps, waiting=0.0))
    assert "the step is the bottleneck: it waits 0.0% of the time; the loader alone is 3.0 x as fast" in text
    text = words_of(steps=replace(steps, waiting=0.0))
    assert "these few steps waited only 0.0%, as batches were loaded ahead" in text
    uneven = replace(first, loader_rate=450.0, on_cpu=False)
    assert "the step waits 33.3% of the time, although the loader alone is faster: batches come unevenly" in words_of(
        first_epoch=uneven
    )
    alone = replace(first, workers=0)
    assert "there are no loader processes: 33.3% of a step goes into loading its batch" in words_of(first_epoch=alone)
    later = replace(first, cache_gb=1.0, loader_rate=160.0, waiting=0.0)
    text = words_of(measured=later)
    assert "from the second epoch on, with --cache-gb 1: the loader loads 160 images/s, and a step takes 200 ms" in text
    gpu = replace(steps, fastest=0.3004, slowest=0.3004, apart=0.35)
    text = words_of(steps=gpu, memory=Memory(2**34, 2**36, None, None, None))
    assert "steps that run ahead of the GPU take 300 ms each; waiting for the GPU after every section, 350 ms" in text
    assert "GPU: 16 GiB at the peak, of 64 GiB" in text
    assert "3 images could not be used and were replaced" in words_of(skipped=3)
    assert "no other arms: because" in words_of(no_arms="because")


def test_the_description_is_json():
    values = json.loads(json.dumps(diagnosis.of_examination(examination(seeds=3))))
    assert values["step"]["sections"] == SECTIONS
    assert values["total"] == {"hours": 3 * 99.5, "disk": 3 * (2**20 + 2**31)}
    assert values["in_the_long_run"]["waits"] is True
