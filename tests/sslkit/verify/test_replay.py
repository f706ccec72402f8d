"""A flight record's step, done again."""

import json

import pytest

from sslkit.errors import DivergedError
from sslkit.planning import recipe
from sslkit.planning.planner import make_plan
from sslkit.training.options import RunOptions
from sslkit.verify import replay


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_diverged_step_done_again_is_the_same_bit_for_bit(run, tmp_path, plugins, accumulate):
    sets = ("objectives.explode={}", "backbone.dropout=0.5", f"accumulate={accumulate}")
    with pytest.raises(DivergedError):
        run(*sets)
    [record] = (tmp_path / "run").glob("diverged-*")
    before = sorted(path for path in (tmp_path / "run").rglob("*"))
    text = recipe.read(record / "recipe.toml")
    plan, _ = make_plan(recipe.structure(text)[0], plugins)
    made = replay.again(plan, text, record, RunOptions(accelerator="cpu", workers=0))
    assert made.differs == []
    assert made.same_images
    assert made.step == 2 // accumulate
    assert made.first_bad.startswith("objectives.explode (Explode), from inputs of at most ")
    assert {"explode.loss", "alike.distance", "grad_norm"} <= made.then.keys()
    assert sorted(path for path in (tmp_path / "run").rglob("*")) == before


def test_a_step_that_comes_out_differently_is_told(run, tmp_path, plugins):
    with pytest.raises(DivergedError):
        run("objectives.explode={}")
    [record] = (tmp_path / "run").glob("diverged-*")
    told = json.loads((record / "record.json").read_text())
    told["terms"]["alike.norm"] = "7.0"
    told["in_hand"][0][0]["images"][0] += 1
    (record / "record.json").write_text(json.dumps(told))
    text = recipe.read(record / "recipe.toml")
    plan, _ = make_plan(recipe.structure(text)[0], plugins)
    made = replay.again(plan, text, record, RunOptions(accelerator="cpu", workers=0))
    assert made.differs == ["alike.norm"]
    assert not made.same_images
