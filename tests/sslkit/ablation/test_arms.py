from __future__ import annotations

import pytest

from sslkit.ablation.arms import Asked, arms
from sslkit.errors import UsageError
from sslkit.planning import recipe
from sslkit.planning.planner import make_plan

TWO = """
[objectives.contrast]
weight = 0.5
[objectives.parts]
inputs = { part = "scene" }
"""


@pytest.fixture
def made(plugins, recipe_text):
    def made(text=recipe_text + TWO, **asked):
        full = recipe.parse(text, "dots", "dots.toml", asked.pop("sets", ()))
        read, problems = recipe.structure(full)
        assert not problems, problems
        plan, problems = make_plan(read, plugins)
        assert not problems, problems
        return arms(full, plan, plugins, Asked(**asked))

    return made


def names(found):
    return [arm.name for arm in found]


def objectives(arm):
    return list(arm.values["objectives"])


def test_the_full_recipe_comes_first(made):
    found = made(drop=["parts"])
    assert names(found) == ["full", "drop-parts"]
    assert objectives(found[0]) == ["alike", "contrast", "parts"]
    assert objectives(found[1]) == ["alike", "contrast"]


def test_each_drop_is_an_arm_and_a_comma_drops_together(made):
    found = made(drop=["parts", "alike, fake/contrast"])
    assert [objectives(arm) for arm in found[1:]] == [["alike", "contrast"], ["parts"]]
    assert names(found)[2] == "drop-alike+contrast"


def test_drop_each(made):
    assert names(made(drop_each=True)) == ["full", "drop-alike", "drop-contrast", "drop-parts"]


def test_factorial_has_every_subset_but_the_empty_one(made):
    found = made(factorial=True)
    assert len(found) == 7
    assert len({tuple(objectives(arm)) for arm in found}) == 7
    assert all(objectives(arm) for arm in found)


def test_add_with_and_without_options(made, recipe_text):
    plain, weighted = made(text=recipe_text, add=["contrast", "parts={inputs = {part = 'scene'}, weight = 2.0}"])[1:]
    assert plain.values["objectives"]["contrast"] == {"use": "fake/contrast"}
    assert weighted.values["objectives"]["parts"] == {
        "use": "fake/parts", "inputs": {"part": "scene"}, "weight": 2.0,
    }  # fmt: skip


def test_swap_keeps_what_belongs_to_the_core_and_the_place(made):
    [_, arm] = made(swap=["contrast=flat"])
    assert objectives(arm) == ["alike", "flat", "parts"]
    assert arm.values["objectives"]["flat"] == {"use": "fake/flat", "weight": 0.5}
    [_, arm] = made(swap=["optimizer=adamw"])
    assert arm.values["optimizer"] == {"use": "adamw", "base_lr": 0.5}
    assert arm.name == "optimizer=adamw"


def test_vary_reads_values_as_toml_does(made):
    found = made(vary=["backbone.width=4,6", "augment.scene.0.interpolation=bilinear,bicubic", "augment.scene.0.blur_sigma=[0.1, 1.0]"])  # fmt: skip
    assert [arm.values["backbone"].get("width") for arm in found[:3]] == [None, 4, 6]
    assert found[3].values["augment"]["scene"][0]["interpolation"] == "bilinear"
    assert found[5].values["augment"]["scene"][0]["blur_sigma"] == [0.1, 1.0]
    assert names(found)[1:4] == ["backbone.width=4", "backbone.width=6", "augment.scene.0.interpolation=bilinear"]
    assert {arm.varied for arm in found} == {"", "backbone.width", "augment.scene.0.interpolation", "augment.scene.0.blur_sigma"}  # fmt: skip


def test_a_whole_table_and_an_unset_key_can_be_varied(made):
    [_, arm] = made(vary=["optimizer.clip_grad_norm=1.0"])
    assert arm.values["optimizer"]["clip_grad_norm"] == 1.0


def test_an_arm_of_several_changes_makes_them_in_their_order(made):
    [full, arm] = made(
        arm=["small: --drop alike,parts --swap contrast=flat --set objectives.flat.weight=2.0 --set 'batch_size = 2'"]
    )
    assert (arm.name, objectives(arm)) == ("small", ["flat"])
    assert arm.values["objectives"]["flat"] == {"use": "fake/flat", "weight": 2.0}
    assert arm.values["batch_size"] == 2
    assert objectives(full) == ["alike", "contrast", "parts"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("small", "write --arm"),
        ("full: --drop parts", '"full" is taken'),
        (": --drop parts", "write --arm"),
        ("small: --vary a=1", "write --arm"),
        ("small: --drop", "write --arm"),
        ("small: --drop 'parts", "write --arm"),
        ("small: --drop parts --drop parts", "has no objective 'parts'"),
        ("small: --drop parts,contrast --drop alike", "leaves no objective"),
        ("small: --set batch_size", "write --set KEY=VALUE"),
        ("small: --set seed=3", "seeds are --seeds'"),
    ],
)
def test_a_faulty_arm_of_several_changes_is_told(made, words, said):
    with pytest.raises(UsageError) as caught:
        made(arm=[words])
    assert said in str(caught.value)


def test_two_arms_of_one_name_are_told_apart_or_refused(made):
    assert names(made(drop=["parts", "parts"])) == ["full", "drop-parts", "drop-parts"]
    with pytest.raises(UsageError, match="another arm 'small'"):
        made(arm=["small: --drop parts", "small: --drop alike"])


def test_arms_do_not_share_tables(made):
    full, arm = made(vary=["backbone.width=4"])
    arm.values["objectives"]["alike"]["weight"] = 9.0
    assert "weight" not in full.values["objectives"]["alike"]
    assert arm.text(recipe.parse("", "x", "x.toml"), 7).values["seed"] == 7


def test_everything_that_is_wrong_is_said_at_once(made):
    with pytest.raises(UsageError) as caught:
        made(
            drop=["alik", "alike,contrast,parts"],
            add=["nothing", "alike", "parts=3"],
            swap=["alike", "alik=flat", "alike=contrast"],
            vary=["backbone.widt=3", "seed=1,2", "backbone.width="],
        )
    said = str(caught.value)
    for words in (
        "--drop alik: dots.toml has no objective 'alik': did you mean 'alike'?",
        "--drop alike,contrast,parts leaves no objective",
        "--add nothing: there is no objective 'nothing'",
        "--add alike: the recipe has an objective 'alike' already",
        '--add parts=3: 3 is no table; write --add "parts={weight = 0.5}"',
        "--swap alike: write --swap A=B",
        "--swap alike=contrast: the recipe has an objective 'contrast' already",
        "--vary backbone.widt=3: the recipe has no key 'backbone.widt': did you mean 'backbone.width'?",
        "--vary seed=1,2: the recipe has no key 'seed'",
        "--vary backbone.width=: write --vary KEY=VALUE,VALUE",
    ):
        assert words in said
    assert len(said.splitlines()) == 11


@pytest.mark.parametrize("asked", [{"drop_each": True}, {"factorial": True}, {"drop": ["alike"]}])
def test_the_last_objective_cannot_be_dropped(made, recipe_text, asked):
    with pytest.raises(UsageError, match="the recipe has only alike"):
        made(text=recipe_text, **asked)


def test_nothing_asked_is_told_what_can_be(made):
    with pytest.raises(UsageError, match=r"nothing is varied.*objectives: alike, contrast, parts"):
        made()
