"""Scores of online probes in the display: newest value, change, and random weights."""

import io

import pytest
from rich.console import Console

from sslkit.progress import Display
from sslkit.training import online_scores
from sslkit.training.online_scores import ScoreBoard

NAME = "probe.knn.top1"
TERMS = {"loss": -1.5, "alike.loss": -1.5, "images_per_s": 100.0, "waiting": 0.1}


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(online_scores.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def board(newest=None):
    return ScoreBoard({NAME: 0.2, "probe.linear.top1": 0.25}, newest or {})


def cells(table):
    return list(zip(*(column.cells for column in table.columns), strict=True))


def test_scores_stay_until_the_next_ones_and_are_no_term_of_an_objective():
    scores = board()
    assert cells(scores.table()) == [("knn.top1", "-", "", "0.200"), ("linear.top1", "-", "", "0.250")]
    assert scores.take({**TERMS, NAME: 0.21}) == TERMS
    assert scores.take(TERMS) == TERMS
    assert cells(scores.table())[0] == ("knn.top1", "0.210", "", "0.200")
    scores.take({**TERMS, NAME: 0.24})
    assert cells(scores.table())[0] == ("knn.top1", "0.240", "+0.030", "0.200")
    scores.take({**TERMS, NAME: 0.235})
    assert cells(scores.table())[0] == ("knn.top1", "0.235", "-0.005", "0.200")
    assert scores.values() == {NAME: 0.235}


def test_a_resumed_run_shows_the_score_of_before():
    scores = board({NAME: 0.3})
    scores.take({**TERMS, NAME: 0.31})
    assert cells(scores.table())[0] == ("knn.top1", "0.310", "+0.010", "0.200")


def test_measuring_is_mentioned_when_it_takes_longer_than_a_second(clock):
    scores = board()
    with scores.measuring():
        clock(0.9)
        assert scores.activity() == ""
        clock(2.2)
        assert scores.activity() == "probing (3 s)"
    assert scores.activity() == ""


def test_a_failed_measurement_ends_the_mention(clock):
    scores = board()
    with pytest.raises(ValueError, match="no"), scores.measuring():
        raise ValueError("no")
    clock(5)
    assert scores.activity() == ""


def shown(*, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140, height=40, color_system=None)
    return Display(100, 10, console), console


def test_the_panel_has_a_table_of_them_and_says_that_it_is_probing(clock):
    display, console = shown(terminal=True)
    display.online = board()
    display.start(0)
    display.update(1, {**TERMS, NAME: 0.21}, 100.0, 0.1, 60.0)
    display.update(2, TERMS, 100.0, 0.1, 60.0)
    with display.online.measuring():
        clock(2)
        console.print(display._panel())
    display.stop()
    text = console.file.getvalue()
    assert "waiting for data 10%  probing (2 s)" in text
    assert "knn.top1 0.210 0.200" in " ".join(text.split())
    assert "probe.knn" not in text, "neither an objective of its own nor among the rest"


def test_plain_lines_have_the_newest_score():
    display, console = shown(terminal=False)
    display.online = board()
    display.start(0)
    display.update(1, {**TERMS, NAME: 0.25}, 100.0, 0.1, 60.0)
    display.update(2, {**TERMS, NAME: 0.5}, 100.0, 0.1, 60.0)
    display.update(100, TERMS, 100.0, 0.1, 0.0)
    lines = console.file.getvalue().splitlines()
    assert [line.rpartition(f"{NAME} ")[2] for line in lines] == ["0.25", "0.5"]
