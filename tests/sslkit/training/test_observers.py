"""Observers share no fate: none changes what another one or the run sees, and none ends the run."""

import json
import os
import sys
import types

import pytest
import torch

import sslkit_logs
from sslkit import hookimpl
from sslkit.api import Run
from sslkit.plugins import Owner, Plugins
from sslkit.training.observers import Observers


class Screen:
    """Stands in for the display: remembers its notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def observers(tmp_path, *hooks, recipe=None):
    """Return observers with a plugin for each function, called a, b, c, ..., and their screen."""
    plugins = Plugins.load(points=[])
    for name, function in zip("abcdef", hooks, strict=False):
        module = types.ModuleType(name)
        setattr(module, function.__name__, hookimpl(function))
        plugins.add(Owner(name, f"sslkit-{name}", "1.0"), module)
    screen = Screen()
    run = Run(tmp_path, recipe or {"optimizer": {"base_lr": 0.1}}, 10, 5)
    return Observers(plugins, run, screen, is_first=True), screen


def spoil_terms(terms):
    terms["loss"] = float("nan")
    terms.pop("lr")
    terms["more"] = 1.0


def spoil_run(run):
    run.step, run.steps_per_epoch, run.folder = 99, 0, None


def spoil_recipe(run):
    run.recipe.setdefault("optimizer", {})["base_lr"] = 7.0
    run.recipe.clear()


@pytest.mark.parametrize("spoil", [spoil_terms, spoil_run, spoil_recipe])
def test_what_one_observer_changes_no_other_sees(tmp_path, spoil):
    seen = []

    def sslkit_step_finished(run, step, terms):
        seen.append((run.folder, run.step, run.steps_per_epoch, json.dumps(run.recipe), terms))

    def before(run, terms):
        spoil(terms if spoil is spoil_terms else run)

    before.__name__ = "sslkit_step_finished"
    called, screen = observers(tmp_path, before, sslkit_step_finished, before, sslkit_step_finished)
    terms = {"loss": 1.0, "lr": 0.5}
    for step in (1, 2):
        called.run.step = step
        called.call("sslkit_step_finished", step=step, terms=terms)
    recipe = json.dumps({"optimizer": {"base_lr": 0.1}})
    assert seen == [(tmp_path, step, 5, recipe, {"loss": 1.0, "lr": 0.5}) for step in (1, 1, 2, 2)]
    assert terms == {"loss": 1.0, "lr": 0.5}
    assert not screen.notes


class StopError(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(0), StopError("x"), MemoryError()])
def test_an_observer_that_fails_is_named_once_and_the_others_are_called(tmp_path, error):
    seen = []

    def sslkit_step_finished(step):
        raise error

    def good(step):
        seen.append(step)

    good.__name__ = "sslkit_step_finished"
    called, screen = observers(tmp_path, sslkit_step_finished, good)
    for step in (1, 2):
        called.call("sslkit_step_finished", step=step, terms={})
    assert seen == [1, 2]
    [note] = screen.notes
    assert note.startswith(
        f"plugin 'a' (sslkit-a 1.0) failed in sslkit_step_finished and is disabled: {type(error).__name__}"
    )


class SilentError(ValueError):
    def __str__(self):
        raise RuntimeError("no words")


class EndingError(ValueError):
    def __str__(self):
        raise SystemExit(0)


@pytest.mark.parametrize(
    "error", [SilentError(), EndingError(), type("Other", (Exception,), {"__str__": lambda self: 3})()]
)
def test_an_observer_whose_error_has_no_message_ends_no_run(tmp_path, error):
    def sslkit_step_finished(step):
        raise error

    called, screen = observers(tmp_path, sslkit_step_finished)
    for step in (1, 2):
        called.call("sslkit_step_finished", step=step, terms={})
    [note] = screen.notes
    assert note.endswith(f"is disabled: {type(error).__name__}, which has no message that can be read")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("change", "value"),
    [
        (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
        (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
        (lambda: os.chdir("/"), os.getcwd), (lambda: torch.set_num_threads(3), torch.get_num_threads),
    ],
)  # fmt: skip
def test_what_an_observer_changes_of_the_process_is_restored(tmp_path, monkeypatch, change, value, fails):
    monkeypatch.chdir(tmp_path)
    before = value()

    def sslkit_step_finished(step):
        change()
        assert value() != before
        if fails:
            raise ValueError

    called, _ = observers(tmp_path, sslkit_step_finished)
    called.call("sslkit_step_finished", step=1, terms={})
    assert value() == before


def test_a_working_folder_that_is_gone_disables_no_observer(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    seen = []

    def sslkit_step_finished(step):
        seen.append(step)

    called, screen = observers(tmp_path, sslkit_step_finished)
    called.call("sslkit_step_finished", step=1, terms={})
    assert (seen, screen.notes) == ([1], [])


def test_what_an_observer_prints_is_no_result(tmp_path, capsys):
    def sslkit_step_finished(step):
        sys.stdout.write(f"step {step}\n")

    called, _ = observers(tmp_path, sslkit_step_finished)
    called.call("sslkit_step_finished", step=3, terms={})
    assert capsys.readouterr() == ("", "step 3\n")


def test_metrics_are_whole_beside_an_observer_that_writes_into_terms(run, plugins):
    def sslkit_step_finished(terms):
        spoil_terms(terms)

    module = types.ModuleType("bad")
    module.sslkit_step_finished = hookimpl(sslkit_step_finished)
    plugins.add(Owner("logs", "sslkit-logs", "1"), sslkit_logs)
    plugins.add(Owner("bad", "sslkit-bad", "0.1"), module)  # pluggy calls the last one first
    result = run("probes={}")
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] is not None and line["lr"] is not None and "more" not in line for line in lines)
    assert result.terms["loss"] == lines[-1]["loss"]
