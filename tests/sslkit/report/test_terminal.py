"""The table on terminals of several widths."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from sslkit import report
from sslkit.report.table import make_table
from sslkit.report.terminal import print_table, split_table


def printed(results, width, **options):
    file = io.StringIO()
    print_table(results, Console(file=file, width=width, highlight=False, **options))
    return file.getvalue()


@pytest.mark.parametrize("width", [90, 100, 120, 160, 260])
def test_no_line_is_too_long_and_no_figure_is_broken(results, width):
    text = printed(results, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for row in make_table(results).rows:
        for cell in row.cells[1:]:
            assert cell.text in text


def test_one_table_where_it_fits(results):
    assert "(1 of" not in printed(results, 260)
    assert printed(results, 260).count("┏") == 1


def test_narrow_terminals_get_several_tables_with_every_column_once(results):
    table = make_table(results)
    parts = split_table(table, 100)
    assert [part.columns[0].title for part in parts] == ["arm"] * len(parts)
    assert [column for part in parts for column in part.columns[1:]] == list(table.columns[1:])
    assert "(1 of" in printed(results, 100)


def test_costs_are_split_off_first(results):
    from dataclasses import replace

    table = make_table(replace(results, metrics=("knn top1",)))
    parts = split_table(table, 120)
    assert [{c.kind for c in part.columns} for part in parts] == [
        {"arm", "objective", "varied", "metric"},
        {"arm", "cost"},
    ]
    assert [len(part.rows) for part in parts] == [7, 5], "untrained features have no cost"


def test_a_star_marks_an_interval_that_excludes_zero(results):
    assert "−2.9] *" in printed(results, 120)
    assert "*" in "".join(line for line in printed(results, 120).splitlines() if line.startswith("Mean ±"))


def test_colours_only_in_a_terminal_that_wants_them(results, monkeypatch):
    assert "\x1b[" not in printed(results, 120)
    assert "\x1b[1m" in printed(results, 120, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(results, 120, force_terminal=True)


def test_a_terminal_without_unicode_gets_ascii(results):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, "ascii") as file:
        print_table(results, Console(file=file, width=240, highlight=False))
        file.flush()
        text = raw.getvalue().decode("ascii")
    assert "-3.2 [-3.5, -2.9] *" in text
    assert "71.5 +- 0.1" in text


def test_print_results_writes_to_stdout(results, capsys):
    report.print_results(results)
    out, err = capsys.readouterr()
    assert out.startswith("Ablation of quickstart")
    assert f"note: {results.arms[4].name}, seed 2: stopped" in out
    assert not err
