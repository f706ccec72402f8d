"""The neutral table."""

from dataclasses import replace

import pytest

from sslkit.report.table import Cell, legend, make, notes, setting, shown

FULL, DROPPED, FEWER, FAILED, STOPPED, RANDOM, RAW = range(7)


def column(table, title, group=""):
    [number] = [i for i, c in enumerate(table.columns) if c.title == title and c.group.startswith(group)]
    return [row.cells[number] for row in table.rows]


def test_rows_are_the_arms_and_below_them_what_was_not_trained(results):
    table = make(results)
    names = [cell.text for cell in column(table, "arm")]
    assert names == [arm.name for arm in results.arms] + ["random weights", "raw pixels"]
    assert [row.reference for row in table.rows] == [False] * 5 + [True] * 2
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_check_marks(results):
    marks = [cell.text for cell in column(make(results), "instance-instance")]
    assert marks == ["✓", "", "✓", "✓", "", "", ""]


def test_varied_keys_show_every_arms_value(results):
    assert [cell.text for cell in column(make(results), "sampler.instances")] == ["4", "4", "2", "4", "4", "", ""]


def test_means_differences_and_the_best(results):
    table = make(results)
    values = [[trial.metrics.get("knn top1") for trial in arm.trials] for arm in results.arms]
    mean = sum(values[DROPPED]) / 3
    cells = column(table, "mean ± std", "knn top1")
    assert cells[DROPPED].text.startswith(f"{100 * mean:.1f} ± ")
    assert [cell.best for cell in cells] == [False, False, True, False, False, False, False]
    versus = column(table, "Δ to full [95 %]", "knn top1")
    assert versus[FULL] == Cell("–")
    assert versus[DROPPED].text.startswith(f"−{100 * (sum(values[FULL]) / 3 - mean):.1f} [−")
    assert versus[DROPPED].text.endswith("] *")
    assert not versus[FEWER].text.endswith("*")
    assert versus[RANDOM].text.startswith("−31.0 [")


def test_holes_are_shown_as_holes(results):
    table = make(results)
    for row in (FAILED, STOPPED):
        assert column(table, "mean ± std", "knn top1")[row] == Cell("hole", hole=True)
        assert column(table, "Δ to full [95 %]", "knn top1")[row] == Cell("2 of 3 seeds", hole=True)
        assert column(table, "hours")[row] == Cell("–", hole=True)
    assert column(table, "GFLOPs/image")[FAILED].text == "3.85"


def test_a_hole_in_the_full_recipe_leaves_means_without_differences(results):
    full = replace(results.full, trials=(*results.full.trials[:2], replace(results.full.trials[2], state="stopped")))
    holed = replace(results, arms=(full, *results.arms[1:]))
    table = make(holed)
    assert column(table, "mean ± std", "knn top1")[DROPPED].text.startswith("68.")
    assert column(table, "Δ to full [95 %]", "knn top1")[DROPPED] == Cell("–", hole=True)
    assert column(table, "mean ± std", "knn top1")[RANDOM] == Cell("hole", hole=True)
    assert "full has a hole, so that no difference to it can be given." in table.notes


def test_what_is_missing_is_said_with_its_reason(results):
    found = notes(results)
    assert found[0] == f"{results.arms[FAILED].name}, seed 1: failed: {results.arms[FAILED].trials[1].reason}"
    assert found[1] == f"{results.arms[STOPPED].name}, seed 2: stopped"
    assert found[-1] == results.notes[0]


def test_an_arm_that_was_not_started_is_said_in_one_line(results):
    arm = replace(results.arms[1], trials=[replace(t, state="waiting", metrics={}) for t in results.arms[1].trials])
    assert "drop-instance-instance: not started" in notes(replace(results, arms=(results.full, arm)))


def test_a_metric_that_is_alike_everywhere_becomes_a_note(results):
    table = make(results)
    assert not [c for c in table.columns if c.group.startswith("knn chance")]
    assert "knn chance (%) is the same in every row: 12.6 ± 0.1" in table.notes
    alone = make(replace(results, metrics=("knn chance",)))
    assert [c.group for c in alone.columns if c.kind == "metric"] == ["knn chance (%)"] * 2
    assert not any(cell.best for row in alone.rows for cell in row.cells)


def one_seed(results):
    return replace(results, seeds=(0,), arms=tuple(replace(arm, trials=arm.trials[:1]) for arm in results.arms))


def test_one_seed_has_neither_spread_nor_interval(results):
    table = make(one_seed(results))
    assert "±" not in "".join(cell.text for row in table.rows for cell in row.cells)
    assert column(table, "Δ to full", "knn top1")[DROPPED].text == "−3.2"
    assert legend(one_seed(results)).startswith("One seed: no spread and no interval")


def test_nothing_but_settings_and_costs_without_probes(results):
    bare = replace(results, metrics=(), arms=[replace(arm, trials=[replace(t, metrics={}, references={}) for t in arm.trials])
                                              for arm in results.arms])  # fmt: skip
    table = make(bare)
    assert {c.kind for c in table.columns} == {"arm", "objective", "varied", "cost"}
    assert not table.legend
    assert len(table.rows) == 5


def test_a_varied_table_shows_what_it_holds(results):
    arm = replace(results.arms[1], changes={"sampler.use": ("a", "b"), "sampler.scale": (None, [0.1, 1])})
    assert shown(setting(results, arm, "sampler")) == "use = b, scale = [0.1, 1]"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (True, "true"), ("two-views", "two-views"), ([1, "a"], '[1, "a"]'), (0.5, "0.5")]
)
def test_shown(value, text):
    assert shown(value) == text


def test_long_values_are_cut_in_the_table():
    assert shown("x" * 50, 40) == "x" * 39 + "…"
