"""The results of the GPU rehearsal: records, the page and its curves."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_a_record_is_on_disk_after_every_change(tmp_path):
    from gpu.record import Record, read_json

    record = Record(tmp_path / "r.json")
    record.check("loss", 2e-7, "at most 1e-05", True)
    assert read_json(record.file)["checks"] == [
        {"what": "loss", "value": "2e-07", "limit": "at most 1e-05", "ok": True}
    ]
    for count in (1, 2):
        record.table("steps", [{"step": number, "images/s": 12345.678} for number in range(count)])
    record.put(rate=float("nan"))
    record.check("weights", 1.0, "at most 0.1", False)
    content = read_json(record.file)
    assert [row["images/s"] for row in content["tables"][0]["rows"]] == ["12,346", "12,346"]
    assert len(content["tables"]) == 1
    assert content["data"] == {"rate": None}  # JSON has no NaN
    assert record.failed == ["weights"]
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def content(**parts):
    known = {"what": "some work", "seconds": 3.0, "bound_s": 10.0, "error": None}
    return {
        "state": "finished", "minutes": 2, "seconds": 20.0,
        "conditions": {"commit": "abc", "date": "2026-01-01", "command": "python -m gpu", "card": "a card"},
        "parts": {name: {**known, **part} for name, part in parts.items()},
    }  # fmt: skip


def test_the_page_has_the_results_and_the_errors(tmp_path):
    from gpu import page

    part = {
        "status": "failed", "error": "Traceback\n```\nValueError: no", "notes": ["word " * 60],
        "checks": [{"what": "a|b", "value": "1", "limit": "at most 0", "ok": False}],
        "tables": [{"title": "steps", "rows": [{"step": str(number)} for number in range(40)]}, {"title": "t", "rows": []}],
        "curves": [{"title": "loss", "x": "images", "lines": {"loss": [[0, 1.0], [64, 0.5]]}, "levels": {}},
                   {"title": "nothing yet", "x": "images", "lines": {"loss": []}, "levels": {}}],
    }  # fmt: skip
    page.write(content(learning=part, tests={"status": "passed"}), tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "Of 2 parts, 1 failed, 1 passed. It took 20 s of 120 s, on a card." in text
    assert "| learning | **failed** | 3 | 10 | some work |" in text
    assert "```text\nTraceback\n'''\nValueError: no\n```" in text
    assert "| a\\|b | 1 | at most 0 | **does not hold** |" in text
    assert "| ... |" in text
    assert "| 39 |" in text
    assert "| 20 |" not in text
    assert "![loss](learning-loss.svg)" in text
    assert "nothing yet" not in text
    assert [file.name for file in tmp_path.glob("*.svg")] == ["learning-loss.svg"]
    assert max(map(len, text.splitlines())) <= 118


def test_a_curve_is_drawn_to_scale():
    from gpu import svg

    text = svg.draw(
        "probes", "images", {"linear": [[0, 0.2], [1000, 0.4]], "knn": [[0, 0.1], [1000, 0.3]]},
        {"linear, random weights": 0.25, "knn, random weights": 0.15, "linear, raw pixels": 0.2},
    )  # fmt: skip
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    lines = [
        [tuple(map(float, point.split(","))) for point in item.get("points").split()]
        for item in root.iter(f"{space}polyline")
    ]
    assert [line[0][0] for line in lines] == [svg.LEFT, svg.LEFT]
    assert [line[1][0] for line in lines] == [svg.WIDTH - svg.RIGHT] * 2
    heights = [0.2, 0.4, 0.1, 0.3]
    up = dict(zip(heights, (point[1] for line in lines for point in line), strict=True))
    per_point = (up[0.1] - up[0.4]) / 0.3
    assert up[0.1] - up[0.2] == pytest.approx(0.1 * per_point, abs=0.2)
    assert svg.TOP <= up[0.4] < up[0.1] <= svg.HEIGHT - svg.BOTTOM
    dashed = [item for item in root.iter(f"{space}line") if item.get("stroke-dasharray")]
    level = next(item for item in dashed if item.get("stroke") == svg.COLOURS[0])
    assert float(level.get("y1")) == pytest.approx(up[0.2] - 0.05 * per_point, abs=0.2)
    assert {item.text for item in root.iter(f"{space}text")} >= {"probes", "images", "linear", "random weights", "0.2"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 0.3, [-0.2, 0, 0.2]), (0, 70000, [0, 20000, 40000, 60000])],
)
def test_ticks_are_round(low, high, expected):
    from gpu.svg import ticks

    assert ticks(low, high) == pytest.approx(expected)


def test_a_flat_curve_is_drawn():
    from gpu import svg

    assert "polyline" in svg.draw("loss", "images", {"loss": [[5, 1.0]]}, {})
    assert not re.search("nan|inf", svg.draw("loss", "images", {"loss": [[0, 1.0], [0, 1.0]]}, {}))
