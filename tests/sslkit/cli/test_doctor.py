"""`sslkit doctor` as a user runs it."""

from __future__ import annotations

import json

import pytest

from sslkit.__main__ import main
from sslkit.doctor import loading, peaks


@pytest.fixture
def doctor(tmp_path, monkeypatch, small_recipe):
    """Return a function that runs the command in an empty folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "small.toml").write_text(small_recipe)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(loading, "_ENOUGH_S", 0.0)
    monkeypatch.setitem(peaks._SIDES, "cpu", 128)

    def doctor(*more: str) -> int:
        arguments = ("doctor", "../small.toml", "--accelerator", "cpu", "--steps", "2", "--workers", "1", *more)
        code = main(arguments)
        assert not list((tmp_path / "here").iterdir()), "the command writes no files"
        return code

    return doctor


def test_it_reports_real_steps_and_writes_nothing(doctor, capsys):
    more = '--set=objectives.scene-instance={inputs={instance="scene"}}'
    assert doctor("--json", "--seeds", "2", more, "--set", "steps=60") == 0
    report = json.loads(capsys.readouterr().out)
    step, image = report["step"], report["photo"]
    assert sum(step["sections"].values()) == pytest.approx(step["seconds_in_sections"], rel=0.02)
    assert {"objective scene-scene", "objective scene-instance", "target forward"} <= step["sections"].keys()
    assert list(image["sections"]) == list(loading.ORDER)
    assert [arm["arm"] for arm in report["arms"]] == ["full", "drop-scene-scene", "drop-scene-instance"]
    full = report["arms"][0]
    assert full["images_per_s"] == pytest.approx(report["in_the_long_run"]["images_per_s"])
    assert full["hours"] == pytest.approx(60 * 4 / full["images_per_s"] / 3600)
    used = full["gflops_per_image"] * 1e9 * step["images_per_s"] / report["utilisation"]["peak"]
    assert report["utilisation"]["used"] == pytest.approx(used)
    assert report["memory"]["pipeline"] == 3 * 4 * image["bytes"]
    assert report["precisions"].keys() == {"32-true", "bf16-mixed"}
    assert report["total"]["hours"] == pytest.approx(2 * sum(arm["hours"] for arm in report["arms"]))


def test_it_prints_a_page(doctor, capsys):
    assert doctor("--cache-gb", "0.1") == 0
    page = capsys.readouterr().out
    for words in ("Where a step's time goes", "Which side waits", "What to change", "with --cache-gb 0.1", "full"):
        assert words in page


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--set", "sampler.use=none"], 3, "small.toml"),
        (["--set", 'source={use="folder", root="nowhere"}'], 5, "nowhere"),
        (["--set", "optimizer.base_lr=1e30", "--set", "optimizer.warmup_epochs=0"], 6, "is not finite"),
        (["--devices", "3"], 2, "batch_size = 4 over 3 ranks"),
    ],
)
def test_a_failure_ends_with_its_code(doctor, capsys, more, code, message):
    assert doctor(*more) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_it_computes_as_a_new_run_would_and_gives_the_times_of_that_choice(doctor, capsys, trials):
    assert doctor("--json", "--set", "precision=auto") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["precision"] == "32-true"
    assert report["precisions"] == {"32-true": 0.25, "bf16-mixed": 0.28}, "seconds per image of the timed steps"
    assert not any("precision" in item["change"] for item in report["advice"])
    assert len(trials.plans) == 1
