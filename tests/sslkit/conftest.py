"""A recipe over this suite's own plugin, trained in this process."""

import pytest

from sslkit import recipe, trainer
from sslkit.runfolder import RunFolder
from sslkit.wiring import make_plan


@pytest.fixture
def run(plugins, recipe_text, tmp_path):
    def run(*sets, folder="run", text=recipe_text, **hardware):
        given = recipe.parse(text, "dots", "dots.toml", sets)
        made, problems = recipe.structure(given)
        assert not problems, problems
        plan, problems = make_plan(made, plugins)
        assert not problems, problems
        hardware = trainer.Hardware(**{"workers": 0, "accelerator": "cpu", **hardware})
        return trainer.train(plan, given, plugins, RunFolder(tmp_path / folder), hardware)

    return run
