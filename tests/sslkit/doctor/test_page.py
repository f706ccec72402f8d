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
from sslkit.doctor.loading import Photo
from sslkit.doctor.memory import Memory
from sslkit.doctor.outlook import ArmOutlook
from sslkit.doctor.peaks import Peak
from sslkit.doctor.steps import Steps
from sslkit.networks.cost import Cost

SECTIONS = {"waiting for data": 0.1, "objective instance-instance": 0.1, "backward": 0.1, "the rest": 0.0004}


def examination(**other: Any) -> Examination:
    """Return figures of a step that takes 300.4 ms, a third of it waiting."""
    first = Measurements(
        cores=2, on_cpu=True, threads=2, processes=1, workers=1, batch_size=30, busy=0.2004, waiting=0.1, networks=0.2,
        photo=0.01, decoding=0.004, loader=100.0, decoded_gb=1.0, cache_gb=0.0, free_gb=8.0, epochs=3.0,
        precision="32-true", precisions={"32-true": 0.1}, monitor_every=50, monitored=0.3,
    )  # fmt: skip
    given: dict[str, Any] = {
        "name": "mine", "device": "cpu (x86_64, 2 threads)", "steps": Steps(20, 0.3004, 0.29, 0.31, 0.1, SECTIONS, 0.3004, 0.3),
        "photo": Photo(64, {"read": 0.004, "cut": 0.006}, 4e5, 3e5), "loader": 100.0,
        "memory": Memory(None, None, 2**30, 2**29, 2**33), "pipeline": 5 * 2**20, "first": first, "figures": first,
        "skipped": 0, "images": 500, "peak": Peak(1e11, "what a product reaches here"), "used": 0.4, "used_busy": 0.6,
        "arms": (ArmOutlook("full", Cost(10**9, 1, 1), 0.01, 100.0, 1500, 0.5, 2**20), ArmOutlook("drop-a", Cost(5 * 10**8, 1, 1), 0.01, 150.0, 1500, 99.0, 2**31)),
    }  # fmt: skip
    return Examination(**(given | other))


def page(found: Examination, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    diagnosis.print_examination(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("values", [[1, 1, 1], [0.1, 0.1, 0.1, 0.0004], [3.0], [1e-9, 1.0, 2.0, 3.0, 1e9]])
def test_shares_are_rounded_so_that_they_add_up(values):
    shown = diagnosis.shares(values)
    assert sum(round(10 * share) for share in shown) == 1000
    assert shown == pytest.approx([100 * value / sum(values) for value in values], abs=0.1)


def test_the_page_tells_where_time_goes_and_fits(capsys):
    told = page(examination(advice=(Advice("--workers 2", "the loader is the limit", 1.5),)))
    assert max(map(len, told.splitlines())) <= 80
    for words in (
        "mine: 20 steps of 30 photos, 32-true, on cpu", "99.9 photos/s: a step takes 300 ms (290 ms to 310 ms)",
        "every 50th step takes 300 ms longer", "on one core (64 photos)", "1 loader process",
        "the loader is the limit: the step waits 33.3% of the time; fed well, it is 1.50 x", "1 GiB",
        "batches hold at most 5 MiB: 2 x 1 loader process + 1 in use", "40.0% of what a product reaches here",
        "1. --workers 2: 1.50 times as many photos/s", "the loader is the limit", "drop-a", "4.1 days", "30.0 min",
        "2 arms x 1 seed: 2 runs, 4.1 days one after another, 2 GiB on disk",
    ):  # fmt: skip
        assert words in " ".join(told.split()), words


def test_what_else_there_may_be_to_tell():
    found = examination()
    assert "nothing: by these figures no setting brings 5 % or more" in page(found)
    fed = replace(found.first, waiting=0.0, loader=450.0)
    told = " ".join(page(examination(first=fed, figures=fed, steps=replace(found.steps, waiting=0.0))).split())
    assert "the step is the limit: it waits 0.0% of the time; the loader alone is 3.0 times as fast" in told
    told = " ".join(page(examination(steps=replace(found.steps, waiting=0.0))).split())
    assert "these few steps waited 0.0%, as batches were made ahead" in told
    uneven = replace(found.first, loader=450.0, on_cpu=False)
    told = " ".join(page(examination(first=uneven)).split())
    assert "the step waits 33.3% of the time, though the loader alone is faster: batches come unevenly" in told
    alone = replace(found.first, workers=0)
    assert "there is no loader process: 33.3% of a step is making its batch" in page(examination(first=alone))
    later = replace(found.first, cache_gb=1.0, loader=160.0, waiting=0.0)
    told = " ".join(page(examination(figures=later)).split())
    assert "from the second epoch on, with --cache-gb 1: the loader makes 160 photos/s, and a step takes 200 ms" in told
    gpu = replace(found.steps, fastest=0.3004, slowest=0.3004, apart=0.35)
    told = " ".join(page(examination(steps=gpu, memory=Memory(2**34, 2**36, None, None, None))).split())
    assert "steps that run ahead of the GPU take 300 ms each; cut into sections, which are waited for, 350 ms" in told
    assert "GPU: 16 GiB at the peak, of 64 GiB" in told
    assert "3 photos could not be used" in page(examination(skipped=3))
    assert "no arms: because" in page(examination(no_arms="because"))


def test_the_description_is_json():
    told = json.loads(json.dumps(diagnosis.of_examination(examination(seeds=3))))
    assert told["step"]["sections"] == SECTIONS
    assert told["total"] == {"hours": 3 * 99.5, "disk": 3 * (2**20 + 2**31)}
    assert told["in_the_long_run"]["waits"] is True
