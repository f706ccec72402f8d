"""The table before it is rendered."""

from dataclasses import replace

import pytest

from sslkit.report.table import Cell, format_setting, legend, make_table, notes, setting

FULL, DROPPED, FEWER, FAILED, STOPPED, RANDOM, RAW = range(7)


def column(table, title, group=""):
    [number] = [i for i, c in enumerate(table.columns) if c.title == title and c.group.startswith(group)]
    return [row.cells[number] for row in table.rows]


def test_rows_are_the_arms_and_below_them_untrained_features(results):
    table = make_table(results)
    names = [cell.text for cell in column(table, "arm")]
    assert names == [arm.name for arm in results.arms] + ["random weights", "raw pixels"]
    assert [row.reference for row in table.rows] == [False] * 5 + [True] * 2
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_calibrated_random_weights_have_a_row_beside_the_others(results):
    trials = []
    for trial in results.full.trials:
        raw, random = trial.references["raw pixels"], trial.references["random weights"]
        calibrated = {name: value - 0.02 for name, value in random.items()}
        references = {"raw pixels": raw, "random weights": random, "random weights, calibrated": calibrated}
        trials.append(replace(trial, references=references))
    table = make_table(replace(results, arms=(replace(results.full, trials=tuple(trials)), *results.arms[1:])))
    names = [cell.text for cell in column(table, "arm")][5:]
    assert names == ["raw pixels", "random weights", "random weights, calibrated"]
    plain, calibrated = (float(column(table, "mean ± std", "knn top1")[row].text.split()[0]) for row in (-2, -1))
    assert calibrated == pytest.approx(plain - 2, abs=0.11)


def test_check_marks(results):
    marks = [cell.text for cell in column(make_table(results), "instance-instance")]
    assert marks == ["✓", "", "✓", "✓", "", "", ""]


def test_varied_keys_show_every_arms_value(results):
    assert [cell.text for cell in column(make_table(results), "sampler.instances")] == ["4", "4", "2", "4", "4", "", ""]


def test_means_differences_and_the_best(results):
    table = make_table(results)
    values = [[trial.metrics.get("knn top1") for trial in arm.trials] for arm in results.arms]
    mean = sum(values[DROPPED]) / 3
    cells = column(table, "mean ± std", "knn top1")
    assert cells[DROPPED].text.startswith(f"{100 * mean:.1f} ± ")
    assert [cell.best for cell in cells] == [False, False, True, False, False, False, False]
    differences = column(table, "Δ to full [95 %]", "knn top1")
    assert differences[FULL] == Cell("–")
    assert differences[DROPPED].text.startswith(f"−{100 * (sum(values[FULL]) / 3 - mean):.1f} [−")
    assert differences[DROPPED].text.endswith("] *")
    assert not differences[FEWER].text.endswith("*")
    assert differences[RANDOM].text.startswith("−31.0 [")


def test_holes_are_shown_as_holes(results):
    table = make_table(results)
    for row in (FAILED, STOPPED):
        assert column(table, "mean ± std", "knn top1")[row] == Cell("hole", hole=True)
        assert column(table, "Δ to full [95 %]", "knn top1")[row] == Cell("2 of 3 seeds", hole=True)
        assert column(table, "hours")[row] == Cell("–", hole=True)
    assert column(table, "GFLOPs/image")[FAILED].text == "3.85"


def test_a_hole_in_the_full_recipe_leaves_means_without_differences(results):
    full = replace(results.full, trials=(*results.full.trials[:2], replace(results.full.trials[2], state="stopped")))
    holed = replace(results, arms=(full, *results.arms[1:]))
    table = make_table(holed)
    assert column(table, "mean ± std", "knn top1")[DROPPED].text.startswith("68.")
    assert column(table, "Δ to full [95 %]", "knn top1")[DROPPED] == Cell("–", hole=True)
    assert column(table, "mean ± std", "knn top1")[RANDOM] == Cell("hole", hole=True)
    assert "full has a hole, so there are no differences to it." in table.notes


def test_missing_runs_are_noted_with_their_reason(results):
    lines = notes(results)
    assert lines[0] == f"{results.arms[FAILED].name}, seed 1: failed: {results.arms[FAILED].trials[1].reason}"
    assert lines[1] == f"{results.arms[STOPPED].name}, seed 2: stopped"
    assert lines[-1] == results.notes[0]


def test_an_arm_that_was_not_started_is_one_note(results):
    arm = replace(results.arms[1], trials=[replace(t, state="waiting", metrics={}) for t in results.arms[1].trials])
    assert "drop-instance-instance: not started" in notes(replace(results, arms=(results.full, arm)))


def test_a_constant_metric_becomes_a_note(results):
    table = make_table(results)
    assert not [c for c in table.columns if c.group.startswith("knn chance")]
    assert "knn chance (%) is the same in every row: 12.6 ± 0.1" in table.notes
    alone = make_table(replace(results, metrics=("knn chance",)))
    assert [c.group for c in alone.columns if c.kind == "metric"] == ["knn chance (%)"] * 2
    assert not any(cell.best for row in alone.rows for cell in row.cells)


def one_seed(results):
    return replace(results, seeds=(0,), arms=tuple(replace(arm, trials=arm.trials[:1]) for arm in results.arms))


def test_one_seed_has_neither_spread_nor_interval(results):
    table = make_table(one_seed(results))
    assert "±" not in "".join(cell.text for row in table.rows for cell in row.cells)
    assert column(table, "Δ to full", "knn top1")[DROPPED].text == "−3.2"
    assert legend(one_seed(results)).startswith("One seed, so no spread and no interval")


def test_nothing_but_settings_and_costs_without_probes(results):
    bare = replace(results, metrics=(), arms=[replace(arm, trials=[replace(t, metrics={}, references={}) for t in arm.trials])
                                              for arm in results.arms])  # fmt: skip
    table = make_table(bare)
    assert {c.kind for c in table.columns} == {"arm", "objective", "varied", "cost"}
    assert not table.legend
    assert len(table.rows) == 5


def test_a_varied_table_shows_its_values(results):
    arm = replace(results.arms[1], changes={"sampler.use": ("a", "b"), "sampler.scale": (None, [0.1, 1])})
    assert format_setting(setting(results, arm, "sampler")) == "use = b, scale = [0.1, 1]"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (True, "true"), ("two-views", "two-views"), ([1, "a"], '[1, "a"]'), (0.5, "0.5")]
)
def test_format_setting(value, text):
    assert format_setting(value) == text


def test_long_values_are_shortened_in_the_table():
    assert format_setting("x" * 50, 40) == "x" * 39 + "…"
