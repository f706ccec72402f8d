"""From the target of a command to a plan or to an opened source, with the plugin for tests."""

import types
from pathlib import Path

import pytest

from sslkit import hookimpl, targets
from sslkit.errors import DataError, PluginError, RecipeError
from sslkit.plugins import Owner, Plugins
from sslkit.storage.run_folder import RECIPE


@pytest.fixture
def recipe(recipe_text, tmp_path):
    file = tmp_path / "dots.toml"
    file.write_text(recipe_text)
    return str(file)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return str(folder)


def test_problems_of_structure_do_not_hide_the_others(recipe, plugins, capsys):
    with pytest.raises(RecipeError) as caught:
        targets.load(recipe, ["batch_size=0", "sampler.use=pear"], plugins)
    assert [problem.key for problem in caught.value.problems] == [("batch_size",), ("sampler", "use")]
    assert "has 2 problems, 1 of them above:" in str(caught.value)
    assert "structural problems, looking for more" in capsys.readouterr().err


def test_missing_images_are_a_data_error(recipe, plugins):
    sets = ["source.absent=true"]
    assert targets.load(recipe, sets, plugins)[0].source.options["absent"]
    with pytest.raises(DataError, match=r"has 1 problem:\n.*dots.toml:8: \[source\] the dots are missing"):
        targets.load(recipe, sets, plugins, data=True)
    with pytest.raises(DataError, match="the dots are missing"):
        targets.open_source(recipe, sets, plugins)


def test_a_recipes_source_is_opened(recipe, plugins):
    assert len(targets.open_source(recipe, ["source.images=5"], plugins)) == 5


def test_a_folder_needs_a_source_that_declares_to_open_it(images, plugins):
    with pytest.raises(PluginError, match="no installed source declares opens_folder; write a recipe that names"):
        targets.open_source(images, [], plugins)
    dots = plugins.find("source", "dots").cls

    class Any(dots):
        name = "any"
        opens_folder = True

        def __init__(self, *, root: Path):
            super().__init__()
            self.root = root

    module = types.ModuleType("any")
    module.sslkit_sources = hookimpl(lambda: [dots, Any])
    opening = Plugins.load(points=[])
    opening.add(Owner("any", "sslkit-any", "1.0"), module)
    assert str(targets.open_source(images, [], opening).root) == images
    with pytest.raises(PluginError, match="no installed proposer declares is_default"):
        targets.open_target(images, [], opening)


def test_a_runs_folder_is_not_a_folder_of_images(images):
    assert targets.is_image_folder(images)
    (targets.Path(images) / RECIPE).touch()
    assert not targets.is_image_folder(images)
