"""The page: valid markup, nothing from the network, and nothing that a name could inject."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sslkit.report import page

VOID = {"meta", "link", "input", "wbr"}


class Checker(HTMLParser):
    """Checks that elements nest, and collects what matters."""

    def __init__(self):
        super().__init__()
        self.stack, self.ids, self.links, self.text, self.seen = [], [], [], [], {}

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute twice in {tag}"
        self.seen.setdefault(tag, []).append(values)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src", "xlink:href", "srcset", "action") if key in values]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.stack, f"<{tag}/> outside of SVG"
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.stack
    assert len(checker.ids) == len(set(checker.ids))
    return checker


@pytest.fixture
def report(results):
    return page.to_html(replace(results, metrics=("knn top1",)))


def test_the_page_is_well_formed_html5(report):
    parsed = checked(report)
    assert report.startswith("<!DOCTYPE html>\n<html")
    assert parsed.seen["html"] == [{"lang": "en"}]
    assert len(parsed.seen["h1"]) == 1
    assert {value["href"].removeprefix("#") for value in parsed.seen["a"]} <= set(parsed.ids)


def test_nothing_is_loaded_from_elsewhere(report):
    parsed = checked(report)
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|<iframe|<img", report)
    policy = parsed.seen["meta"][1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'")


def test_everything_is_on_the_page(report, results):
    text = " ".join("".join(checked(report).text).split())
    for words in (
        "Ablation of quickstart", results.command, results.summary, "68.3 ± 0.1", "−3.2 [−3.5, −2.9] *", "2 of 3 seeds",
        "5 arms, 3 seeds: 13 of 15 runs are finished; 1 failed, 1 stopped.", "objectives.instance-instance.weight",
        "nan <not finite> & 100 % of the_batch", "scene-instance.loss", "feature_std", "2.4.6 / 2.4.5", results.notes[0],
        "interrupted ones resume", results.arms[1].digest,
    ):  # fmt: skip
        assert words in text, words


def test_tables_have_headings_for_rows_and_columns(report, results):
    parsed = checked(report)
    assert all("scope" in values for values in parsed.seen["th"])
    assert report.count('<span class="unseen">yes</span>') == sum(len(arm.objectives) for arm in results.arms)
    assert report.count('<span class="unseen">no</span>') == 8


def test_light_and_dark_follow_the_reader(report):
    assert "prefers-color-scheme: dark" in report


def test_names_cannot_become_markup(results):
    evil = '</title><script>alert(1)</script><b x="'
    arm = replace(results.arms[1], name=evil, changes={evil: (evil, evil)})
    parsed = checked(page.to_html(replace(results, recipe=evil, command=evil, notes=(evil,), arms=(results.full, arm))))
    assert len(parsed.seen["script"]) == 1
    assert "b" not in parsed.seen


def test_the_size_is_bounded(tmp_path, results):
    from sslkit.report import curves

    names = {f"monitor_{i}": curves.thin(range(5000), [float(j % 7) for j in range(5000)]) for i in range(200)}
    trial_curves = [curves.TrialCurves(0, 0, names)]
    from sslkit.report import panels

    assert len(panels.panel_grid(results, trial_curves, list(names)[: panels.MAX_PANELS])) < 60 * 10_000


def test_a_page_without_curves_metrics_changes_or_holes(results, tmp_path):
    full = replace(results.full, trials=[replace(t, folder=str(tmp_path / "gone"), metrics={}, references={})
                                         for t in results.full.trials])  # fmt: skip
    bare = replace(
        results, arms=(full, replace(full, name="same")), metrics=(), varied=(), versions={}, notes=(), summary=""
    )
    parsed = checked(page.to_html(bare))
    text = "".join(parsed.text)
    assert "No trial has a readable metrics.jsonl" in text
    assert "Nothing differs from full." in text
    assert "missing" not in parsed.ids
    assert "versions" not in parsed.ids
