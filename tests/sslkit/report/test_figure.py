"""The figure: what is drawn and where; equal results give equal bytes."""

import io
import re
from dataclasses import replace

import pytest
from PIL import Image

from sslkit.ablation import statistics
from sslkit.report import figure


def axes(results):
    with figure._settings():
        return figure._figure(results).axes


def test_two_panels_per_metric_that_differs_between_arms(results):
    panels = axes(results)
    assert [panel.get_xlabel() for panel in panels[::2]] == ["knn top1 (%)", "knn balanced (%)", "linear top1 (%)"]
    assert {panel.get_xlabel() for panel in panels[1::2]} == {"difference to full (points)"}
    names = [text.get_text().replace("\n", "") for text in panels[0].get_yticklabels()]
    assert names == [arm.name for arm in results.arms]


def test_a_ring_per_seed_and_a_bar_at_the_mean(results):
    lines = axes(results)[0].lines
    rings = [line for line in lines if line.get_marker() == "o"]
    drawn = [sorted(value / 100 for value in line.get_xdata()) for line in rings]
    expected = [
        sorted(trial.metrics["knn top1"] for trial in arm.trials if trial.state == "finished") for arm in results.arms
    ]
    assert drawn == [pytest.approx(values) for values in expected]
    bars = [line.get_xdata()[0] / 100 for line in lines if line.get_marker() == "|"]
    assert bars == [
        pytest.approx(statistics.mean(arm, statistics.metric_reader("knn top1")).value) for arm in results.arms[:3]
    ]


def test_intervals_can_be_told_apart_without_colour(results):
    right = axes(results)[1]
    differences = [
        statistics.difference(arm, statistics.metric_reader("knn top1"), results.full) for arm in results.arms[1:3]
    ]
    lines = [tuple(line.get_xdata()) for line in right.lines if line.get_marker() == "None"][1:]
    assert lines == [pytest.approx((100 * item.low, 100 * item.high)) for item in differences]
    fills = [line.get_markerfacecolor() for line in right.lines if line.get_marker() == "o"]
    assert fills == [figure.BLUE, figure.PAPER]
    assert [text.get_text() for text in right.texts] == ["hole: 2 of 3 seeds"] * 2


def test_a_hole_in_the_full_recipe(results):
    full = replace(results.full, trials=[replace(trial, state="failed") for trial in results.full.trials])
    right = axes(replace(results, arms=(full, *results.arms[1:])))[1]
    texts = [text.get_text() for text in right.texts]
    assert texts == ["hole: 0 of 3 seeds", *["full has a hole"] * 2, *["hole: 2 of 3 seeds"] * 2]


def test_a_panel_with_nothing_in_it_has_no_scale(results):
    arms = [replace(arm, trials=[replace(trial, state="waiting") for trial in arm.trials]) for arm in results.arms]
    assert [list(panel.get_xticks()) for panel in axes(replace(results, arms=arms))[:2]] == [[], []]


def test_png_and_svg_are_what_they_claim_and_reproducible(results):
    few = replace(results, metrics=("knn top1",))
    png, svg = figure.to_png(few), figure.to_svg(few)
    assert Image.open(io.BytesIO(png)).size[0] == 1440
    assert png == figure.to_png(few)
    assert svg == figure.to_svg(few)
    assert "<dc:date>" not in svg


def test_without_metrics_the_figure_says_so(results):
    assert Image.open(io.BytesIO(figure.to_png(replace(results, metrics=())))).size[0] == 1440


@pytest.mark.parametrize(
    ("states", "says"),
    [
        (("waiting",), "none of the 12 runs is finished"),
        (("stopped", "failed"), "none of the 12 runs is finished"),
        (("running", "waiting"), "none of the 12 runs is finished"),
        (("finished", "waiting"), "the recipe has no probes"),
    ],
)
def test_it_says_why_there_are_no_metrics(results, states, says):
    """What the probes of a recipe measure is known once a run is finished."""
    arms = [
        replace(
            arm,
            trials=tuple(
                replace(trial, state=states[n % len(states)], metrics={}) for n, trial in enumerate(arm.trials)
            ),
        )
        for arm in results.arms
    ]
    [text] = figure._figure(replace(results, arms=arms, metrics=())).texts
    assert text.get_text().startswith(says.replace("12", str(sum(len(arm.trials) for arm in arms))))


def test_inline_it_takes_the_pages_colours(results):
    svg = figure.to_inline_svg(replace(results, metrics=("knn top1",)))
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert not re.findall(r"(?:fill|stroke): #\w+", svg)


def test_matplotlib_is_left_as_it_was(results):
    import matplotlib

    with matplotlib.rc_context({"font.size": 33.0}):
        figure.to_svg(replace(results, metrics=("knn top1",)))
        assert matplotlib.rcParams["font.size"] == 33.0
