"""Small plots of curves."""

import xml.etree.ElementTree as ET

import pytest

from sslkit.report import panels
from sslkit.report.curves import ThinnedCurve, TrialCurves, read_curves

FLAT = (1.0, 1.0, 1.0)


def test_lines_go_where_the_values_are():
    assert panels.line_path([(0, 0.0), (5, 1.0), (10, 0.5)], (0, 10), (0.0, 1.0)) == "M0.0 160.0L132.0 0.0L264.0 80.0"
    assert panels.line_path([(10, 0.5)], (0, 10), (0.0, 1.0)) == "M264.0 80.0h0"


def test_a_value_far_outside_is_moved_closer():
    assert panels.line_path([(0, 1e9)], (0, 1), (0.0, 1.0)) == "M0.0 -160.0h0"


def test_gaps_break_a_line():
    curve = ThinnedCurve([0, 1, 2, 3, 4], [None, FLAT, FLAT, None, FLAT])
    assert panels.segments(curve) == [[(1, FLAT), (2, FLAT)], [(4, FLAT)]]


def test_the_area_path_goes_along_the_top_and_back_along_the_bottom():
    part = [(0, (0.0, 0.5, 1.0)), (10, (0.25, 0.5, 0.75))]
    assert panels.area_path(part, (0, 10), (0.0, 1.0)) == "M0.0 0.0L264.0 40.0L264.0 120.0L0.0 160.0Z"


def test_losses_and_monitors_have_separate_headings(results):
    headings = panels.names_by_heading(results, read_curves(results))
    assert headings["Losses"] == [
        "loss",
        "scene-scene.loss",
        "scene-instance.loss",
        "instance-instance.loss",
        "vicreg.loss",
    ]
    assert headings["Monitors"] == ["feature_std", "sampler.overlap"]
    assert headings["Schedule and speed"] == ["lr"]


def test_every_logged_quantity_has_its_heading(results):
    heads = {
        "scene-scene.gradient_norm": "Gradients",
        "conflict.scene-scene.vicreg": "Gradients",
        "grad_norm": "Gradients",
        "scene-scene.forward_ms": "Schedule and speed",
        "rankme.features_n": "Schedule and speed",
        "waiting": "Schedule and speed",
        "rankme.features": "Monitors",
        "target_similarity": "Monitors",
        "scene-scene.plan_entropy": "Losses",
    }
    curves = {name: ThinnedCurve([1, 2], [FLAT, FLAT]) for name in heads}
    headings = panels.names_by_heading(results, [TrialCurves(0, 0, curves)])
    assert {name: head for head, listed in headings.items() for name in listed} == heads


def test_a_grid_is_well_formed_and_has_a_line_for_every_trial(results):
    trial_curves = read_curves(results)
    grid = ET.fromstring(panels.panel_grid(results, trial_curves, ["loss", "vicreg.loss"]))
    loss, vicreg = grid.findall("figure")
    arms = [
        path.get("data-arm")
        for path in loss.iter("path")
        if "range" not in path.get("class", "") and path.get("data-arm")
    ]
    assert sorted(arms) == sorted(str(number) for number in range(5) for _ in range(3))
    assert arms[-1] == "0", "the full recipe is drawn last, on top"
    assert {path.get("data-arm") for path in vicreg.iter("path")} == {None, "3"}
    assert loss.find("svg").get("aria-label").startswith("loss over the steps, for full, drop-")


def test_a_curve_without_finite_values_is_named_as_such(results):
    trial_curves = [TrialCurves(0, 0, {"x": ThinnedCurve([1, 2], [None, None])})]
    assert "never finite" in panels.panel_grid(results, trial_curves, ["x"])


@pytest.mark.parametrize(
    ("value", "text"), [(20_000.0, "20k"), (-0.5, "−0.5"), (0.30000000000000004, "0.3"), (1500.0, "1500"), (0.0, "0")]
)
def test_tick_labels(value, text):
    assert panels._tick_label(value) == text
