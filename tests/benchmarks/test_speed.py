"""The speed benchmark: every part runs at its smallest size, and its figures are reported as measured."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def row(variant, seconds, what="work"):
    from speed.timing import row

    return row(what, variant, seconds)


def test_lanes_take_turns_and_the_first_round_is_not_counted():
    from speed.timing import interleaved

    order = []
    rows = interleaved("x", {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, n=2, units=4)
    assert "".join(order) == "baabba"
    assert [(item["variant"], item["n"]) for item in rows] == [("a", 2), ("b", 2)]


def test_quartiles_and_ratios():
    from speed.timing import ratio

    slow, fast = row("slow", [4.0, 2.0, 3.0, 5.0, 6.0]), row("fast", [2.0])
    assert (slow["low_s"], slow["median_s"], slow["high_s"], slow["n"]) == (3, 4, 5, 5)
    assert (fast["low_s"], fast["high_s"]) == (2, 2)
    assert ratio([slow, fast], "slow", "fast") == 2


def test_claims_read_what_was_measured(tmp_path):
    from speed.figures import written

    found = {
        "views": [row("lightly's transforms", [0.9]), row("sslkit, float", [0.3])],
        "loop": [row("sslkit, whole loop", [50e-6]), row("bare loop", [10e-6])],
        "step": [row("lightly, documented", [9.0], "resnet50"), row("sslkit, default", [3.0], "resnet50")],
    }
    page = written(found, tmp_path, "small")
    assert "| views from JPEG on one core, float out | **3x** | 2.5x | 3.1x |" in page
    assert "| our loop over a bare one, a step | **40 us** | at most 60 us | 30 us |" in page
    assert "default against default, ResNet-50 | **3x**" in page
    assert "ResNet-18" not in page
    assert "| sslkit, float | 3x | 300 ms | 300 ms to 300 ms | 1 |" in page
    assert json.loads((tmp_path / "speed.json").read_text())["rows"] == found
    assert (tmp_path / "speed.png").stat().st_size > 5000


def test_steps_on_small_views_have_claims_of_their_own(tmp_path):
    from speed.figures import written

    small = [
        row(variant, [seconds], f"BYOL step, {network}, 32 px")
        for network, ours in (("small-resnet", 2.0), ("resnet18", 4.0))
        for variant, seconds in (("lightly, documented", 4.0), ("sslkit, default", ours))
    ]
    page = written({"small": small}, tmp_path, "small")
    assert "small network, 32 px, 64 images | **2x** | 1.5x" in page
    assert "ResNet-18, 32 px, 8 images | **1x** | 1x" in page
    assert "ResNet-18 |" not in page, "the claim for 96 px"


def test_views_are_made_in_every_way(tmp_path):
    from speed.photos import draw
    from speed.views import one_core

    rows = one_core(draw(tmp_path, 3), 3, 1)
    assert len({item["variant"] for item in rows}) == 9
    assert all(item["median_s"] > 0 for item in rows)


def test_the_objective_is_timed_with_every_solver():
    from speed.transport import OPTIONS, solver_rows

    rows = solver_rows(3, rounds=1)
    assert [item["variant"] for item in rows] == list(OPTIONS)
    assert all(item["median_s"] > 0 for item in rows)


def test_our_step_is_measured_beside_the_bare_passes_of_the_same_networks():
    from speed.gpu import memory, step

    rows = step("resnet18", 32, 4, 1, block=1)
    assert [item["variant"] for item in rows] == ["bare passes", "sslkit", "sslkit, augmenting"]
    assert memory("resnet18", 32, 4, saving=True) > 2**28


@pytest.mark.parametrize("network", ["resnet18", "small-resnet"])
def test_a_step_is_the_work_of_lightlys_documented_one(network):
    from speed.step import same_work

    same_work(network, 32, 4)


def test_lanes_apart_share_nothing_and_tell_what_failed():
    from speed.timing import apart, interleaved

    with apart({"a": (partial, (len, "abc")), "b": (partial, (len, "d"))}) as lanes:
        assert [item["n"] for item in interleaved("x", lanes, n=2)] == [2, 2]
    with pytest.raises(RuntimeError, match="unsupported operand"), apart({"a": (pow, ("x", 2))}):
        pass
    with pytest.raises(RuntimeError, match="has no len"), apart({"a": (partial, (len, 5))}) as lanes:
        lanes["a"]()


def test_readers_of_annotations_are_timed_in_processes_of_their_own(tmp_path):
    from speed import annotations

    annotations.write_coco(tmp_path / "coco", 0.0005)
    annotations.write_voc(tmp_path / "voc", 0.0005)
    for read in (annotations.coco, annotations.pycocotools, annotations.voc):
        seconds, processor, peak = annotations.measured(read, tmp_path)
        assert 0 < seconds < 60
        assert processor > 0
        assert peak >= 0
