"""A recipe over this suite's own plugin, trained in this process."""

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
        given = recipe_file.parse(text, "dots", "dots.toml", sets)
        made, problems = recipe_file.check_structure(given)
        assert not problems, problems
        plan, problems = make_plan(made, using)
        assert not problems, problems
        options = RunOptions(**{"workers": 0, "accelerator": "cpu", **options})
        return trainer.train(plan, given, using, RunFolder(tmp_path / folder), options)

    return run


@pytest.fixture
def dataset(plugins, recipe_text):
    """Return a function that makes the dataset of the fake recipe with overrides."""

    def make(*sets: str, more: str = "", edit: tuple[str, str] = ("", ""), **options) -> views.ViewDataset:
        text = recipe_text.replace(*edit) + more
        given, problems = recipe_file.check_structure(recipe_file.parse(text, "dots", "dots.toml", sets))
        assert given, problems
        plan, problems = make_plan(given, plugins)
        assert plan, problems
        return views.ViewDataset(plan, *prepare(plan), **options)

    return make
