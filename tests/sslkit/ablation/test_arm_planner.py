"""Requests become arms, and all faults are reported together."""

from __future__ import annotations

import pytest

from sslkit.errors import UsageError


def names(arms):
    return [arm.name for arm in arms]


def objectives(arm):
    return list(arm.values["objectives"])


def test_the_full_recipe_comes_first(make):
    arms = make(drop=["parts"])
    assert names(arms) == ["full", "drop-parts"]
    assert objectives(arms[0]) == ["alike", "contrast", "parts"]
    assert objectives(arms[1]) == ["alike", "contrast"]


def test_drop_each(make):
    assert names(make(drop_each=True)) == ["full", "drop-alike", "drop-contrast", "drop-parts"]


def test_factorial_has_every_subset_but_the_empty_one(make):
    arms = make(factorial=True)
    assert len(arms) == 7
    assert len({tuple(objectives(arm)) for arm in arms}) == 7
    assert all(objectives(arm) for arm in arms)


def test_an_arm_of_several_changes_makes_them_in_their_order(make):
    [full, arm] = make(
        arm=["small: --drop alike,parts --swap contrast=flat --set objectives.flat.weight=2.0 --set 'batch_size = 2'"]
    )
    assert (arm.name, objectives(arm)) == ("small", ["flat"])
    assert arm.values["objectives"]["flat"] == {"use": "fake/flat", "weight": 2.0}
    assert arm.values["batch_size"] == 2
    assert objectives(full) == ["alike", "contrast", "parts"]


@pytest.mark.parametrize(
    ("words", "message"),
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
        ("small: --set seed=3", "--seeds sets the seeds"),
    ],
)
def test_an_invalid_arm_of_several_changes_is_reported(make, words, message):
    with pytest.raises(UsageError) as caught:
        make(arm=[words])
    assert message in str(caught.value)


def test_two_different_arms_of_one_name_are_refused(make):
    assert names(make(drop=["parts", "parts"])) == ["full", "drop-parts", "drop-parts"]
    with pytest.raises(UsageError, match="another arm is named 'small'"):
        make(arm=["small: --drop parts", "small: --drop alike"])


def test_all_faults_are_reported_at_once(make):
    with pytest.raises(UsageError) as caught:
        make(
            drop=["alik", "alike,contrast,parts"],
            add=["nothing", "alike", "parts=3"],
            swap=["alike", "alik=flat", "alike=contrast"],
            vary=["backbone.widt=3", "seed=1,2", "backbone.width="],
        )
    message = str(caught.value)
    for words in (
        "--drop alik: dots.toml has no objective 'alik': did you mean 'alike'?",
        "--drop alike,contrast,parts leaves no objective",
        "--add nothing: unknown objective 'nothing'",
        "--add alike: the recipe already has an objective 'alike'",
        '--add parts=3: 3 is not a table; write --add "parts={weight = 0.5}"',
        "--swap alike: write --swap A=B",
        "--swap alike=contrast: the recipe already has an objective 'contrast'",
        "--vary backbone.widt=3: the recipe has no key 'backbone.widt': did you mean 'backbone.width'?",
        "--vary seed=1,2: every arm has the same seeds; --seeds sets how many",
        "--vary backbone.width=: write --vary KEY=VALUE,VALUE",
    ):
        assert words in message
    assert len(message.splitlines()) == 11


@pytest.mark.parametrize("requests", [{"drop_each": True}, {"factorial": True}, {"drop": ["alike"]}])
def test_the_last_objective_cannot_be_dropped(make, recipe_text, requests):
    with pytest.raises(UsageError, match="the recipe has only alike"):
        make(text=recipe_text, **requests)


def test_without_requests_the_error_lists_the_options(make):
    with pytest.raises(UsageError, match=r"nothing is varied.*objectives: alike, contrast, parts"):
        make()
