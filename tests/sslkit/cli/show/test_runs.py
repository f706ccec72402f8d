"""The results of runs, as text and as data."""

from __future__ import annotations

import pytest

from sslkit.cli.show.runs import describe_result, print_result
from sslkit.training.result import Result


def probes(trained):
    counts = {"count_test": 1234567.0, "count_left_out": 2.0, "chosen_lr": 0.03}
    values = {"raw pixels": 0.2, "random weights": 0.3, "random weights, calibrated": 0.25, "trained": trained}
    return {name: {"knn": {"top1": value, **counts}} for name, value in values.items()}


@pytest.mark.parametrize(
    ("trained", "words"),
    [(0.5, "trained is above random weights on 1 of 1 probe (+20.0"), (0.1, "nothing was learned that these probes")],
)
def test_the_table_ends_with_a_verdict(tmp_path, capsys, monkeypatch, trained, words):
    monkeypatch.setenv("COLUMNS", "200")
    result = Result(tmp_path, "finished", 3, 3, probes=probes(trained))
    print_result(result)
    shown = capsys.readouterr().out
    table, _, _ = shown.partition("trained is")
    assert words in shown
    assert "random weights, calibrated" in table
    assert "1234567" in table, "a count is written out"
    described = describe_result(result)["verdict"]
    assert described == result.verdict.describe()
    assert described["learned"] is (trained == 0.5)


def test_a_run_without_probes_or_that_was_stopped_has_no_verdict(tmp_path, capsys):
    for scores in ({}, {name: values for name, values in probes(0.5).items() if name != "trained"}):
        result = Result(tmp_path, "stopped", 1, 3, probes=scores)
        print_result(result)
        assert "trained is" not in capsys.readouterr().out
        assert describe_result(result)["verdict"] is None
