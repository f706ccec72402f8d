"""Fixtures: recipes over the plugin for tests, and runs of them in this process."""

from typing import ClassVar

import pytest

from sslkit.data import views
from sslkit.data.opening import prepare
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.storage.run_folder import RunFolder
from sslkit.training import hardware, precision, remembered, trainer
from sslkit.training.options import RunOptions
from sslkit.training.trial import PLAIN, Mode, NoOutcomeError, Outcome


@pytest.fixture
def run(plugins, recipe_text, tmp_path):
    def run(*sets, folder="run", text=recipe_text, using=plugins, **options):
        parsed = recipe_file.parse(text, "dots", "dots.toml", sets)
        recipe, problems = recipe_file.check_structure(parsed)
        assert not problems, problems
        plan, problems = make_plan(recipe, using)
        assert not problems, problems
        options = RunOptions(**{"workers": 0, "accelerator": "cpu", **options})
        return trainer.train(plan, parsed, using, RunFolder(tmp_path / folder), options)

    return run


@pytest.fixture
def fast(monkeypatch):
    """Return a function that makes this machine fast at bfloat16, or slow."""

    def fast(yes):
        monkeypatch.setattr(hardware, "fast_at_bf16", lambda accelerator="auto": yes)

    return fast


@pytest.fixture
def trials(monkeypatch, tmp_path, fast):
    """Let trials decide, on a machine of its own; `trials.seconds` are their outcome, `trials.plans` what was timed."""

    class Trials:  # a new class for each test
        seconds: ClassVar = {
            PLAIN: 1.0,
            Mode("32-true", "channels-last"): 1.5,
            Mode("bf16-mixed", "channels-last"): 1.12,
        }
        plans: ClassVar = []
        refused = ""

    def run_trial(plan, modes):
        Trials.plans.append(plan)
        if Trials.refused:
            raise NoOutcomeError(Trials.refused)
        return Outcome({mode: Trials.seconds[mode] for mode in modes if mode in Trials.seconds}, 4)

    fast(True)
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(precision.VARIABLE)
    monkeypatch.setattr(remembered, "_THIS_PROCESS", {})
    monkeypatch.setattr(precision, "run_trial", run_trial)
    return Trials


@pytest.fixture
def dataset(plugins, recipe_text):
    """Return a function that makes the dataset of the fake plugin's recipe, with overrides."""

    def make(*sets: str, more: str = "", edit: tuple[str, str] = ("", ""), **options) -> views.ViewDataset:
        text = recipe_text.replace(*edit) + more
        recipe, problems = recipe_file.check_structure(recipe_file.parse(text, "dots", "dots.toml", sets))
        assert recipe, problems
        plan, problems = make_plan(recipe, plugins)
        assert plan, problems
        return views.ViewDataset(plan, *prepare(plan), **options)

    return make
