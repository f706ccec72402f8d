"""Every rule: when it proposes a change, when it does not, and the gain, computed by hand."""

from __future__ import annotations

import pytest

from sslkit.doctor.advice import (
    RULES,
    _bottleneck,
    advice,
    cache,
    fewer_monitors,
    more_cores,
    more_workers,
    precision,
)

UNLIMITED_LOADER = {"waiting": 0.0, "loader_rate": 1000.0}


def only(rule, measured):
    proposals = list(rule(measured))
    assert len(proposals) == 1
    return proposals[0]


def test_more_workers_as_many_as_the_step_can_use(measure):
    proposal = only(more_workers, measure())  # 50 images/s per process
    assert proposal.change == "--workers 8"
    assert proposal.gain == pytest.approx(400 / 200)
    assert "it loads 200 images/s, and the step could take 400" in proposal.why
    assert only(more_workers, measure(cores=7)).change == "--workers 6"
    assert only(more_workers, measure(cores=7)).gain == pytest.approx(300 / 200)
    proposal = only(more_workers, measure(world_size=2, workers=2))
    assert proposal.change == "--workers 4", "per rank, with two ranks"
    assert proposal.gain == pytest.approx(2)


def test_no_more_workers_where_nothing_waits_or_there_are_no_cores(measure):
    assert not list(more_workers(measure(**UNLIMITED_LOADER)))
    assert not list(more_workers(measure(cores=5)))
    assert not list(more_workers(measure(waiting=0.25 * 0.03)))


def test_on_a_cpu_loader_and_step_share_the_cores(measure):
    """A process loads 50 images/s and the step computes 400; where cores are too few, an image takes both times."""
    beside = {"on_cpu": True, "threads": 4, "workers": 1, "loader_rate": 50, "busy": 0.25, "waiting": 1.75}
    proposal = only(more_workers, measure(cores=8, **beside))
    assert (proposal.change, proposal.gain) == ("--workers 4", pytest.approx(200 / 50)), "no more than cores are free"
    proposal = only(more_workers, measure(cores=5, **beside))
    assert (proposal.change, proposal.gain) == ("--workers 4", pytest.approx(1 / (1 / 200 + 1 / 400) / 50))
    alone = measure(on_cpu=True, cores=2, threads=2, workers=0, loader_rate=50, busy=0.25, waiting=2.0)
    assert only(more_workers, alone).gain == pytest.approx(1), "as slow with a loader process as without"
    assert not [one for one in advice(alone) if "workers" in one.change]
    assert not list(more_workers(measure(on_cpu=True, cores=2, threads=2, workers=1, loader_rate=50, waiting=1.75)))


def test_batches_that_come_unevenly_need_no_change(measure):
    """The loader alone is faster than the step, which still waits: on a GPU there is nothing to change."""
    uneven = measure(loader_rate=500.0, cores=5, waiting=0.025)
    assert uneven.waits
    assert advice(uneven) == []
    shared = measure(loader_rate=500.0, cores=4, waiting=0.025, on_cpu=True, threads=4)
    proposal = only(more_cores, shared)
    assert (proposal.change, proposal.gain) == ("a machine with 12 cores", pytest.approx(0.275 / 0.25))
    assert "a step waits 9% of its time, as its threads and the loader need the same cores" in proposal.why


@pytest.mark.parametrize(("cores", "threads", "workers"), [(8, 4, 4), (16, 2, 4), (3, 2, 1)])
def test_a_cpu_with_cores_for_both_is_not_said_to_share_them(measure, cores, threads, workers):
    """Steps and loader have cores of their own, and batches still come unevenly."""
    apart = measure(on_cpu=True, cores=cores, threads=threads, workers=workers, loader_rate=500.0, waiting=0.025)
    assert not apart.shares_cores(workers)
    why = _bottleneck(apart)
    assert why == "a step waits 9% of its time, as batches come unevenly: on average, the loader makes 500 images/s"
    assert "same cores" not in " ".join(one.why for one in advice(apart))
    crowded = measure(on_cpu=True, cores=cores - 1, threads=threads, workers=workers, loader_rate=500.0, waiting=0.025)
    assert _bottleneck(crowded).endswith("as its threads and the loader need the same cores") == (
        cores - 1 < threads + workers
    )


def test_a_cache_where_memory_has_room(measure):
    proposal = only(cache, measure())  # half of an image's time is decoding: 400 images/s
    assert (proposal.change, proposal.gain) == ("--cache-gb 10", pytest.approx(2))
    assert "reading and decoding take 50% of the time of an image, and all decoded images 10 GB" in proposal.why
    proposal = only(cache, measure(free_gb=5.0))  # 4 of 10 GB: 0.016 s
    assert (proposal.change, proposal.gain) == ("--cache-gb 4", pytest.approx(200 * 0.02 / 0.016 / 200))
    assert "of which 40% fit" in proposal.why
    assert only(cache, measure(world_size=4, nodes=2, workers=1)).change == "--cache-gb 20"
    assert only(cache, measure(free_gb=None)).change == "--cache-gb 10"
    serial = only(cache, measure(workers=0))
    assert serial.gain == pytest.approx(0.5 / (0.25 + 0.25 / 2)), "batches are loaded between steps"
    assert "50% of its time loading its batch" in serial.why


def test_no_cache_where_it_brings_nothing(measure):
    assert not list(cache(measure(**UNLIMITED_LOADER)))
    assert not list(cache(measure(epochs=1.0)))
    assert not list(cache(measure(cache_gb=10.0)))
    assert not [one for one in advice(measure(decoding=1e-4)) if "cache" in one.change]


def test_more_cores_where_there_are_too_few(measure):
    proposal = only(more_cores, measure(cores=6))
    assert (proposal.change, proposal.gain) == ("a machine with 9 cores", pytest.approx(2))
    assert not list(more_cores(measure(cores=9)))
    assert not list(more_cores(measure(cores=2, **UNLIMITED_LOADER)))


def test_the_faster_precision(measure):
    fast = {"32-true": 1.0, "bf16-mixed": 0.5}
    proposal = only(precision, measure(precisions=fast, **UNLIMITED_LOADER))  # 0.2 of 0.25 s halves
    assert proposal.change == '--set precision="bf16-mixed" (changes the numbers)'
    assert proposal.gain == pytest.approx(0.25 / 0.15)
    assert "80% of a step, take 50% of the time" in proposal.why
    slow = measure(precision="bf16-mixed", precisions={"32-true": 0.5, "bf16-mixed": 1.0}, **UNLIMITED_LOADER)
    assert 'precision="32-true"' in only(precision, slow).change


def test_no_other_precision_where_it_is_no_faster_or_the_loader_is_the_limit(measure):
    assert not [one for one in advice(measure(**UNLIMITED_LOADER)) if "precision" in one.change]
    fast = {"32-true": 1.0, "bf16-mixed": 0.5}
    assert only(precision, measure(precisions=fast)).gain == pytest.approx(1), "the loader is the limit"
    serial = measure(precisions=fast, workers=0)
    assert only(precision, serial).gain == pytest.approx(0.5 / (0.15 + 0.25)), "batches are loaded between steps"
    assert not list(precision(measure(precisions={})))
    assert not list(precision(measure(precisions={"32-true": 0.5, "bf16-mixed": 1.0})))
    assert not list(precision(measure(precisions={"32-true": 1.0, "bf16-mixed": 0.98}))), "as auto would not change it"
    uneven = measure(precisions=fast, waiting=0.05, loader_rate=500.0)
    assert only(precision, uneven).gain == pytest.approx(0.3 / (0.2 + 0.05)), "the loader's 0.2 s, and as uneven"


def test_fewer_monitored_steps_where_they_take_long(measure):
    proposal = only(fewer_monitors, measure(monitored=2.5, **UNLIMITED_LOADER))  # 0.05 s a step of 0.25
    assert proposal.change == "--monitor-every 1000", "a hundredth of the time"
    assert proposal.gain == pytest.approx(0.30 / 0.2525)
    assert "2.5 s every 50 steps" in proposal.why
    assert not list(fewer_monitors(measure(monitor_every=0, **UNLIMITED_LOADER)))
    assert not [one for one in advice(measure(monitored=0.1, **UNLIMITED_LOADER)) if "monitor" in one.change]


def test_nothing_to_change_and_what_brings_most_first(measure):
    assert advice(measure(**UNLIMITED_LOADER)) == []
    proposals = advice(measure(cores=6, precisions={"32-true": 1.0, "bf16-mixed": 0.5}))
    assert [one.change for one in proposals] == ["--cache-gb 10", "a machine with 9 cores", "--workers 5"]
    assert [one.gain for one in proposals] == pytest.approx([2, 2, 1.25])
    assert len(RULES) == 5
