"""What a person sees while something takes its time."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sslkit import progress
from sslkit.progress import Display, bar, make_console

TERMS = {
    "loss": -1.5,
    "scene-scene.loss": -0.5,
    "instance-instance.loss": -1.0,
    "instance-instance.plan_entropy": 0.75,
    "feature_std": 0.625,
    "lr": 0.003,
    "target_momentum": 0.99,
    "sampler.fallback": 0.25,
    "images_per_s": 100.0,
    "waiting": 0.1,
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [progress.time.monotonic() + 0.5]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=140, height=40, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_bars_say_the_end_at_once_and_the_rest_now_and_then(clock) -> None:
    console = plain()
    with bar(console) as show:
        for done in range(101):
            clock(0.3)
            show("searching images", done, 100)
        show("quick", 5, 5)
    lines = written(console).splitlines()
    assert lines[-1] == "quick: 5/5 (100%)"
    assert lines[-2] == "searching images: 100/100 (100%)"
    assert 8 <= len(lines) <= 14


def test_a_slow_thing_is_heard_of_every_ten_seconds(clock) -> None:
    console = plain()
    with bar(console) as show:
        for done in range(31):
            show("rendering", done, 1000)
            clock(1.001)
    assert written(console).splitlines() == [
        "rendering: 10/1000 (1%)",
        "rendering: 20/1000 (2%)",
        "rendering: 30/1000 (3%)",
    ]


def test_nothing_to_do_is_done(clock) -> None:
    console = plain()
    with bar(console) as show:
        show("nothing", 0, 0)
    assert written(console).splitlines() == ["nothing: 0/0"]


def test_a_terminal_gets_bars() -> None:
    console = terminal()
    with bar(console) as show:
        show("searching images", 3, 4)
    assert "searching images" in written(console)
    assert "3/4" in written(console)
    assert "━" in written(console)


def test_plain_lines_hold_every_value_once(clock) -> None:
    console = plain()
    display = Display(steps=10, steps_per_epoch=4, console=console)
    display.start(0)
    display.update(5, TERMS, 120.0, 0.07, 50.0)
    [line] = written(console).splitlines()
    assert line.startswith("step 5/10  epoch 2/3  ETA 0:00:50  120.0 images/s  waiting for data 7%")
    for name, value in TERMS.items():
        assert (f"  {name} {value:.4g}" in line) == (name not in ("images_per_s", "waiting"))


def test_plain_lines_are_the_first_the_last_and_some_between(clock) -> None:
    console = plain()
    display = Display(steps=100, steps_per_epoch=100, console=console)
    display.start(0)
    for step in range(1, 101):
        clock(0.5)
        display.update(step, TERMS, 1.0, 0.0, 100.0 - step)
    display.stop()
    steps = [int(line.split()[1].split("/")[0]) for line in written(console).splitlines()]
    assert (steps[0], steps[-1]) == (1, 100)
    assert 10 <= len(steps) <= 13


def test_the_panel_shows_the_step_the_objectives_and_the_rest() -> None:
    console = terminal()
    display = Display(steps=10, steps_per_epoch=4, console=console)
    display.start(0)
    display.update(5, TERMS, 120.0, 0.07, 50.0)
    display.note("resumed from somewhere")
    display.stop()
    shown = written(console)
    for words in (
        "step 5/10  epoch 2/3  ETA 0:00:50", "120.0 images/s  waiting for data 7%", "scene-scene", "instance-instance",
        "plan_entropy", "feature_std", "target_momentum", "0.625", "resumed from somewhere", "sampler.fallback",
    ):  # fmt: skip
        assert words in shown, words
    assert "images_per_s" not in shown


def test_the_time_left_is_smoothed_and_unknown_at_first() -> None:
    display = Display(steps=100, steps_per_epoch=10, console=plain())
    assert display._head() == "step 0/100  epoch 1/10  ETA ?"
    for step in range(1, 51):
        display.update(step, TERMS, 1.0, 0.0, (100 - step) * (2.0 if step % 2 else 4.0))
    assert display._head().endswith(("ETA 0:02:28", "ETA 0:02:29", "ETA 0:02:30", "ETA 0:02:31", "ETA 0:02:32"))


@pytest.mark.parametrize("stderr", [True, False])
def test_a_pipe_is_never_interactive_even_with_forced_colours(stderr, monkeypatch) -> None:
    """Jupyter sets FORCE_COLOR for every process that a notebook starts; their lines must not hold control codes."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not make_console(stderr=stderr).is_interactive


def test_a_notebook_gets_plain_text_on_stderr_and_tables_as_html_on_stdout(monkeypatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert not make_console(stderr=True).is_jupyter
    assert make_console(stderr=False).is_jupyter
