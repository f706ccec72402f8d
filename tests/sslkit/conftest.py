"""Fixtures: recipes over the plugin for tests, and runs of them in this process."""

import pytest

from sslkit.data import views
from sslkit.data.opening import prepare
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions


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
