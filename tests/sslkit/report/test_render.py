"""Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from sslkit.ablation import statistics
from sslkit.ablation.results import load
from sslkit.report import render
from sslkit.report.table import make_table


def cells(line):
    return [part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_is_one_table_with_as_many_cells_in_every_row(results):
    lines = [line for line in render.to_markdown(results).splitlines() if line.startswith("|")]
    table = make_table(results)
    assert len(lines) == 2 + len(table.rows)
    assert {len(cells(line)) for line in lines} == {len(table.columns)}
    assert len({len(line) for line in lines}) == 1, "the source is readable"
    assert all(re.fullmatch(r":?-+:?", cell) for cell in cells(lines[1]))
    assert cells(lines[2])[0] == "full"
    assert "**72.2 ± 0.7**" in lines[4]


def test_markdown_escapes_what_would_be_markup(results):
    arm = replace(results.arms[1], name="a|b *c* <d> `e` [f](g) h_i\nj")
    text = render.to_markdown(replace(results, arms=(results.full, arm)))
    assert r"a\|b \*c\* \<d\> \`e\` [f]\(g) h\_i j" in text
    assert r"nan \<not finite\> \& 100 % of the\_batch is \~0 ^ {see} \$HOME\\run \#3" in render.to_markdown(results)


def test_latex_has_balanced_environments_and_equal_rows(results):
    text = render.to_latex(results)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert kind == "begin" or stack.pop() == name
        if kind == "begin":
            stack.append(name)
    assert not stack
    assert not (set(text) - set(map(chr, range(128)))), "plain ASCII compiles everywhere"
    plain = re.sub(r"\\[{}%$]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        *plain_rows, groups = [*rows[1:], rows[0]]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in plain_rows} == {len(columns)}
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", groups)]
        assert sum(spans) + 1 == len(columns)


def test_latex_puts_at_most_two_metrics_into_a_table(results):
    text = render.to_latex(results)
    assert re.findall(r"\\label\{(.*?)\}", text) == [
        "tab:ablation-quickstart", "tab:ablation-quickstart-2", "tab:ablation-quickstart-cost"
    ]  # fmt: skip
    assert text.count(r"\checkmark") == sum(len(arm.objectives) for arm in results.arms)
    assert r"\textbf{72.2 $\pm$ 0.7}" in text
    assert r"$-$3.2 {[}$-$3.5, $-$2.9{]}\rlap{$^{*}$}" in text


def test_latex_escapes_special_characters(results):
    text = render.to_latex(results)
    assert (
        r"nan \textless{}not finite\textgreater{} \& 100 \% of the\_batch is \textasciitilde{}0 \textasciicircum{} "
        r"\{see\} \$HOME\textbackslash{}run \#3"
    ) in text
    assert r"\shortstack{instance-\\instance}" in text


def test_latex_without_metrics_or_objectives(results):
    text = render.to_latex(replace(results, metrics=(), objectives=(), varied=()))
    assert text.count(r"\begin{tabular}") == 2


def test_csv_has_a_column_for_every_number(results):
    rows = list(csv.DictReader(io.StringIO(render.to_csv(results))))
    by_name = {row["arm"]: row for row in rows}
    arm, row = results.arms[1], by_name["drop-instance-instance"]
    read = statistics.metric_reader("linear top1")
    mean, difference = statistics.mean(arm, read), statistics.difference(arm, read, results.full)
    assert float(row["linear top1 mean"]) == mean.value
    assert float(row["linear top1 std"]) == mean.std
    numbers = [float(row[f"linear top1 {part}"]) for part in ("diff", "low", "high")]
    assert numbers == [difference.value, difference.low, difference.high]
    assert (row["linear top1 n"], row["kind"], row["finished"], row["has instance-instance"]) == ("3", "arm", "3", "0")
    assert (row["sampler.instances"], row["gflops_per_image"]) == ("4", "2.247")
    assert float(row["peak_memory_bytes"]) == arm.trials[0].peak_memory
    assert "knn chance mean" in row, "every metric, whatever the table shows"


def test_csv_leaves_holes_empty(results):
    by_name = {row["arm"]: row for row in csv.DictReader(io.StringIO(render.to_csv(results)))}
    failed = by_name[results.arms[3].name]
    assert {failed[f"knn top1 {part}"] for part in ("mean", "std", "diff", "low", "high", "n")} == {""}
    assert (failed["hours"], failed["seeds"], failed["finished"]) == ("", "3", "2")
    assert {by_name["full"][f"knn top1 {part}"] for part in ("diff", "low", "high")} == {""}
    assert by_name["raw pixels"]["kind"] == "reference"
    assert by_name["raw pixels"]["has scene-scene"] == ""
    assert float(by_name["raw pixels"]["knn top1 diff"]) == pytest.approx(-0.37)


def test_json_holds_the_results_and_the_table(results):
    values = json.loads(json.dumps(render.to_json(results), allow_nan=False))
    assert load(values) == results
    assert [row["arm"] for row in values["table"]][-2:] == ["random weights", "raw pixels"]
    assert values["table"][3]["knn top1 mean"] is None
