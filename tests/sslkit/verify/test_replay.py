"""The replay of a flight record's step."""

import json

import pytest

from sslkit.errors import DivergedError
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.training.options import RunOptions
from sslkit.verify import replay


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_replayed_step_is_the_same_bit_for_bit(run, tmp_path, plugins, accumulate):
    sets = ("objectives.explode={}", "backbone.dropout=0.5", f"accumulate={accumulate}")
    with pytest.raises(DivergedError):
        run(*sets)
    [record] = (tmp_path / "run").glob("diverged-*")
    before = sorted(path for path in (tmp_path / "run").rglob("*"))
    text = recipe_file.read(record / "recipe.toml")
    plan, _ = make_plan(recipe_file.check_structure(text)[0], plugins)
    result = replay.replay(plan, text, record, RunOptions(accelerator="cpu", workers=0))
    assert result.differs == []
    assert result.same_images
    assert result.step == 2 // accumulate
    assert result.first_bad.startswith("objectives.explode (Explode), from inputs of at most ")
    assert {"explode.loss", "alike.distance", "grad_norm"} <= result.then.keys()
    assert sorted(path for path in (tmp_path / "run").rglob("*")) == before


def test_a_step_that_comes_out_differently_is_reported(run, tmp_path, plugins):
    with pytest.raises(DivergedError):
        run("objectives.explode={}")
    [record] = (tmp_path / "run").glob("diverged-*")
    values = json.loads((record / "record.json").read_text())
    values["terms"]["alike.norm"] = "7.0"
    values["in_hand"][0][0]["images"][0] += 1
    (record / "record.json").write_text(json.dumps(values))
    text = recipe_file.read(record / "recipe.toml")
    plan, _ = make_plan(recipe_file.check_structure(text)[0], plugins)
    result = replay.replay(plan, text, record, RunOptions(accelerator="cpu", workers=0))
    assert result.differs == ["alike.norm"]
    assert not result.same_images
