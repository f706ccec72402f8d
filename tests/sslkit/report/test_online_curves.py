"""Learning curves of an ablation: means over seeds against images seen."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sslkit.ablation.results import Trial
from sslkit.report import page, panels
from sslkit.report.curves import read_curves
from sslkit.report.online_curves import MAX_POINTS, is_online, mean_curve, read_online_curves

NAME = "probe.linear.top1"
LEVELS = {"raw pixels": 0.4, "random weights": 0.18, "random weights, calibrated": 0.14}


def write(folder, scores, batch_size=64, **levels):
    """Write a log with scores at some steps, and what they are compared with."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "epoch": step / 10, "loss": 1.0, NAME: score} for step, score in scores.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"every": 10, "train_crops": 75, "test_crops": 25, "metric": "top1", "baselines": {**LEVELS, **levels}}
    text = json.dumps({"images_per_step": batch_size, "probes": {"linear": about}})
    (folder / "online_probes.json").write_text(text)


@pytest.fixture
def learning(results, tmp_path):
    """The arms `full` with three seeds, one of which was stopped early, and an arm with a larger batch and one seed."""
    folders = [tmp_path / "learning" / name for name in ("full-s0", "full-s1", "full-s2", "large-s0")]
    write(folders[0], {10: 0.20, 20: 0.30, 30: 0.36})
    write(folders[1], {10: 0.22, 20: 0.34}, **{"raw pixels": 0.46})
    write(folders[2], {10: 0.24, 20: 0.32, 30: 0.40})
    write(folders[3], {10: 0.5, 20: None}, batch_size=128)
    trials = [Trial(seed, str(folder), "stopped") for seed, folder in enumerate(folders[:3])]
    waiting = [Trial(seed, str(tmp_path / f"none-{seed}")) for seed in (1, 2)]
    arms = [
        replace(results.arms[0], trials=trials),
        replace(results.arms[1], trials=[Trial(0, str(folders[3]), "stopped"), *waiting]),
        results.arms[2],
    ]
    return replace(results, arms=tuple(arms))


def test_a_curve_is_the_mean_of_its_seeds_over_images_seen_as_far_as_all_of_them_got(learning):
    full, large = read_online_curves(learning).arms
    curve = full.curves[NAME]
    assert list(curve.steps) == [640, 1280]
    assert [value[1] for value in curve.values] == pytest.approx([0.22, 0.32])
    # t(0.975, 2) = 4.302653, and the standard deviation of both is 0.02
    half = 4.302653 * 0.02 / 3**0.5
    assert curve.values[0] == pytest.approx((0.22 - half, 0.22, 0.22 + half), abs=1e-6)
    assert (full.arm, large.arm) == (0, 1)
    assert (list(large.curves[NAME].steps), large.curves[NAME].values) == ([1280], [(0.5, 0.5, 0.5)])


def test_baselines_are_the_means_of_the_first_arm(learning):
    baselines = read_online_curves(learning).baselines
    assert baselines == {NAME: pytest.approx({**LEVELS, "raw pixels": 0.42})}


def test_without_online_probes_there_are_no_curves(results):
    online = read_online_curves(results)
    assert (online.arms, online.baselines, online.names) == ([], {}, [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images_per_step": "64"}'])
def test_a_damaged_file_leaves_the_run_out(learning, text):
    for trial in learning.full.trials:
        Path(trial.folder, "online_probes.json").write_text(text)
    assert [arm.arm for arm in read_online_curves(learning).arms] == [1]


def test_many_measurements_are_thinned_and_the_last_one_stays():
    curve = mean_curve([{step: step / 1000 for step in range(1, 998)}])
    assert len(curve.steps) <= MAX_POINTS
    assert curve.steps[-1] == 997
    assert curve.values[-1] == (0.997, 0.997, 0.997)


@pytest.mark.parametrize(
    ("name", "online"), [(NAME, True), ("probe.loss", False), ("probes.linear.top1", False), ("loss", False)]
)
def test_scores_are_told_by_their_names(name, online):
    assert is_online(name) is online


def test_the_page_has_a_panel_with_baselines_and_none_among_the_monitors(learning):
    assert all(NAME not in names for names in panels.names_by_heading(learning, read_curves(learning)).values())
    html = page.to_html(replace(learning, metrics=("knn top1",)))
    assert html.count(f"<figcaption>{NAME}") == 1
    figure = re.search(rf"<figure><figcaption>{NAME}.*?</figure>", html)[0]
    assert f"{NAME} over images seen, for {learning.full.name}" in figure
    levels = re.findall(r'<line x1="0" x2="264" y1="([\d.]+)" y2="\1" class="level"', figure)
    pixels, random_weights, calibrated = map(float, levels)
    assert pixels < random_weights < calibrated, "y grows downwards"
    for name, value in {**LEVELS, "raw pixels": 0.42}.items():
        assert f"{name} {value:.3f}" in figure
    assert "as far as every started seed got" in html


def test_panels_of_steps_have_no_baselines(results):
    html = panels.panel_grid(results, read_curves(results), ["loss"])
    assert "over the steps" in html
    assert "level" not in html
