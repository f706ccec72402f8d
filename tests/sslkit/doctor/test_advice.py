"""Every rule: when it fires, when it does not, and the gain by hand."""

from __future__ import annotations

import pytest

from sslkit.doctor.advice import RULES, advice, cache, fewer_monitors, more_cores, more_workers, precision

FED = {"waiting": 0.0, "loader": 1000.0}


def only(rule, figures):
    found = list(rule(figures))
    assert len(found) == 1
    return found[0]


def test_more_workers_as_many_as_the_step_can_use(figures):
    found = only(more_workers, figures())  # 50 photos/s a process
    assert found.change == "--workers 8"
    assert found.gain == pytest.approx(400 / 200)
    assert "it makes 200 photos/s, the step could take 400" in found.why
    assert only(more_workers, figures(cores=7)).change == "--workers 6"
    assert only(more_workers, figures(cores=7)).gain == pytest.approx(300 / 200)
    found = only(more_workers, figures(processes=2, workers=2))
    assert found.change == "--workers 4", "of each of two processes"
    assert found.gain == pytest.approx(2)


def test_no_more_workers_where_nothing_waits_or_there_are_no_cores(figures):
    assert not list(more_workers(figures(**FED)))
    assert not list(more_workers(figures(cores=5)))
    assert not list(more_workers(figures(waiting=0.25 * 0.03)))


def test_on_a_cpu_loader_and_step_share_the_cores(figures):
    """Of 4 cores, a photo takes 0.02 s and the step's two threads 2 / 400 s: 160 photos/s at most."""
    given = figures(on_cpu=True, cores=4, threads=2, workers=1, loader=50, busy=0.25, waiting=1.75)
    found = only(more_workers, given)
    assert found.change == "--workers 3"
    assert found.gain == pytest.approx(min(150, 4 / (0.02 + 2 / 400)) / 50)
    crowded = figures(on_cpu=True, cores=2, threads=2, workers=0, loader=50, busy=0.25, waiting=2.0)
    assert only(more_workers, crowded).gain == pytest.approx(50 / (100 / 2.25))
    assert not list(more_workers(figures(on_cpu=True, cores=2, threads=2, workers=1, loader=50, waiting=1.75)))


def test_batches_that_come_unevenly_are_no_want_of_anything(figures):
    """The loader alone is faster than the step, which waits all the same: a GPU has nothing to change then."""
    uneven = figures(loader=500.0, cores=5, waiting=0.025)
    assert uneven.waits
    assert advice(uneven) == []
    shared = figures(loader=500.0, cores=4, waiting=0.025, on_cpu=True, threads=4)
    found = only(more_cores, shared)
    assert (found.change, found.gain) == ("a machine with 12 cores", pytest.approx(0.275 / 0.25))
    assert "a step waits 9% of its time, as its threads and the loader need the same cores" in found.why


def test_a_cache_where_memory_has_room(figures):
    found = only(cache, figures())  # half of a photo's time is decoding: 400 photos/s
    assert (found.change, found.gain) == ("--cache-gb 10", pytest.approx(2))
    assert "reading and decoding are 50% of a photo's time, all decoded photos take 10 GB" in found.why
    found = only(cache, figures(free_gb=5.0))  # 4 of 10 GB: 0.016 s
    assert (found.change, found.gain) == ("--cache-gb 4", pytest.approx(200 * 0.02 / 0.016 / 200))
    assert "of which 40% fit" in found.why
    assert only(cache, figures(processes=4, nodes=2, workers=1)).change == "--cache-gb 20"
    assert only(cache, figures(free_gb=None)).change == "--cache-gb 10"
    serial = only(cache, figures(workers=0))
    assert serial.gain == pytest.approx(0.5 / (0.25 + 0.25 / 2)), "batches are made in between"
    assert "50% of its time on making its batch" in serial.why


def test_no_cache_where_it_brings_nothing(figures):
    assert not list(cache(figures(**FED)))
    assert not list(cache(figures(epochs=1.0)))
    assert not list(cache(figures(cache_gb=10.0)))
    assert not [one for one in advice(figures(decoding=1e-4)) if "cache" in one.change]


def test_more_cores_where_there_are_too_few(figures):
    found = only(more_cores, figures(cores=6))
    assert (found.change, found.gain) == ("a machine with 9 cores", pytest.approx(2))
    assert not list(more_cores(figures(cores=9)))
    assert not list(more_cores(figures(cores=2, **FED)))


def test_the_faster_precision(figures):
    fast = {"32-true": 1.0, "bf16-mixed": 0.5}
    found = only(precision, figures(precisions=fast, **FED))  # 0.2 of 0.25 s halves
    assert found.change == '--set precision="bf16-mixed" (changes the numbers)'
    assert found.gain == pytest.approx(0.25 / 0.15)
    assert "80% of a step, take 50% of the time" in found.why
    slow = figures(precision="bf16-mixed", precisions={"32-true": 0.5, "bf16-mixed": 1.0}, **FED)
    assert 'precision="32-true"' in only(precision, slow).change


def test_no_other_precision_where_it_is_no_faster_or_the_loader_is_the_limit(figures):
    assert not [one for one in advice(figures(**FED)) if "precision" in one.change]
    fast = {"32-true": 1.0, "bf16-mixed": 0.5}
    assert only(precision, figures(precisions=fast)).gain == pytest.approx(1), "the loader is the limit"
    serial = figures(precisions=fast, workers=0)
    assert only(precision, serial).gain == pytest.approx(0.5 / (0.15 + 0.25)), "batches are made in between"
    assert not list(precision(figures(precisions={})))
    assert not list(precision(figures(precisions={"32-true": 0.5, "bf16-mixed": 1.0})))
    uneven = figures(precisions=fast, waiting=0.05, loader=500.0)
    assert only(precision, uneven).gain == pytest.approx(0.3 / (0.2 + 0.05)), "the loader's 0.2 s, and as uneven"


def test_fewer_monitored_steps_where_they_take_long(figures):
    found = only(fewer_monitors, figures(monitored=2.5, **FED))  # 0.05 s a step of 0.25
    assert found.change == "--monitor-every 1000", "a hundredth of the time"
    assert found.gain == pytest.approx(0.30 / 0.2525)
    assert "2.5 s every 50 steps" in found.why
    assert not list(fewer_monitors(figures(monitor_every=0, **FED)))
    assert not [one for one in advice(figures(monitored=0.1, **FED)) if "monitor" in one.change]


def test_nothing_to_change_and_what_brings_most_first(figures):
    assert advice(figures(**FED)) == []
    found = advice(figures(cores=6, precisions={"32-true": 1.0, "bf16-mixed": 0.5}))
    assert [one.change for one in found] == ["--cache-gb 10", "a machine with 9 cores", "--workers 5"]
    assert [one.gain for one in found] == pytest.approx([2, 2, 1.25])
    assert len(RULES) == 5
