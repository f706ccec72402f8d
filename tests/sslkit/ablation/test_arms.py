"""Single changes to a recipe."""

from __future__ import annotations

from sslkit.planning import recipe_file


def names(arms):
    return [arm.name for arm in arms]


def objectives(arm):
    return list(arm.values["objectives"])


def test_each_drop_is_an_arm_and_a_comma_drops_together(make):
    arms = make(drop=["parts", "alike, fake/contrast"])
    assert [objectives(arm) for arm in arms[1:]] == [["alike", "contrast"], ["parts"]]
    assert names(arms)[2] == "drop-alike+contrast"


def test_add_with_and_without_options(make, recipe_text):
    plain, weighted = make(text=recipe_text, add=["contrast", "parts={inputs = {part = 'scene'}, weight = 2.0}"])[1:]
    assert plain.values["objectives"]["contrast"] == {"use": "fake/contrast"}
    assert weighted.values["objectives"]["parts"] == {
        "use": "fake/parts", "inputs": {"part": "scene"}, "weight": 2.0,
    }  # fmt: skip


def test_swap_keeps_the_options_of_the_core_and_the_place(make):
    [_, arm] = make(swap=["contrast=flat"])
    assert objectives(arm) == ["alike", "flat", "parts"]
    assert arm.values["objectives"]["flat"] == {"use": "fake/flat", "weight": 0.5}
    [_, arm] = make(swap=["optimizer=adamw"])
    assert arm.values["optimizer"] == {"use": "adamw", "base_lr": 0.5}
    assert arm.name == "optimizer=adamw"


def test_vary_reads_values_as_toml_does(make):
    arms = make(vary=["backbone.width=4,6", "augment.scene.0.interpolation=bilinear,bicubic", "augment.scene.0.blur_sigma=[0.1, 1.0]"])  # fmt: skip
    assert [arm.values["backbone"].get("width") for arm in arms[:3]] == [None, 4, 6]
    assert arms[3].values["augment"]["scene"][0]["interpolation"] == "bilinear"
    assert arms[5].values["augment"]["scene"][0]["blur_sigma"] == [0.1, 1.0]
    assert names(arms)[1:4] == ["backbone.width=4", "backbone.width=6", "augment.scene.0.interpolation=bilinear"]
    assert {arm.varied for arm in arms} == {"", "backbone.width", "augment.scene.0.interpolation", "augment.scene.0.blur_sigma"}  # fmt: skip


def test_a_whole_table_and_an_unset_key_can_be_varied(make):
    [_, arm] = make(vary=["optimizer.clip_grad_norm=1.0"])
    assert arm.values["optimizer"]["clip_grad_norm"] == 1.0


def test_a_length_is_varied_in_either_unit(make):
    full, *arms = make(vary=["steps=3,4", "optimizer.warmup_steps=1", "epochs=5"])
    assert [(arm.values.get("steps"), arm.values.get("epochs")) for arm in arms] == [
        (3, None),
        (4, None),
        (None, 2),
        (None, 5),
    ]
    assert full.values["epochs"] == 2
    assert arms[2].values["optimizer"]["warmup_steps"] == 1
    assert names(arms) == ["steps=3", "steps=4", "optimizer.warmup_steps=1", "epochs=5"]


def test_a_base_override_in_the_other_unit_is_replaced(make, recipe_text):
    text = recipe_text.replace("epochs = 2", "steps = 9").replace("base_lr", "warmup_steps = 3\nbase_lr")
    [_, arm] = make(text=text, arm=["long: --set epochs=7 --set optimizer.warmup_epochs=2"])
    assert (arm.values["epochs"], arm.values["optimizer"]["warmup_epochs"]) == (7, 2)
    assert not {"steps", "warmup_steps"} & {*arm.values, *arm.values["optimizer"]}
    [_, arm] = make(text=text, swap=["optimizer=adamw"])
    assert arm.values["optimizer"] == {"use": "adamw", "base_lr": 0.5, "warmup_steps": 3}


def test_arms_do_not_share_tables(make):
    full, arm = make(vary=["backbone.width=4"])
    arm.values["objectives"]["alike"]["weight"] = 9.0
    assert "weight" not in full.values["objectives"]["alike"]
    assert arm.recipe_file(recipe_file.parse("", "x", "x.toml"), 7).values["seed"] == 7
