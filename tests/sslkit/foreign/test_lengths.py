"""Lengths in epochs or in steps, one of the two."""

from __future__ import annotations

from typing import Any

import pytest

from sslkit.errors import UsageError
from sslkit.foreign import lengths
from sslkit.foreign.signatures import schema
from sslkit.planning import recipe_file
from sslkit.planning.options import validate
from sslkit.planning.planner import make_plan

PAIRS = {
    "epochs": "steps", "warmup_epochs": "warmup_steps", "freeze_epochs": "freeze_steps", "queue_epoch": "queue_step",
}  # fmt: skip


class Component:
    """A component with a length in both units, and a number of steps that is none."""

    def __init__(
        self, *, warmup_epochs: float = 3.0, warmup_steps: int | None = None, inner_steps: int = 2
    ) -> None: ...


def file(text: str, *sets: str) -> recipe_file.RecipeFile:
    return recipe_file.parse(text, "test", "test.toml", sets)


def messages(text: str, *sets: str) -> list[str]:
    given = file(text, *sets)
    return recipe_file.format_problems(given, recipe_file.check_structure(given)[1]).splitlines()


@pytest.mark.parametrize(("epochs", "steps"), PAIRS.items())
def test_units_come_in_pairs(epochs: str, steps: str) -> None:
    assert lengths.in_steps(epochs) == lengths.other_unit(epochs) == steps
    assert (lengths.in_steps(steps), lengths.other_unit(steps)) == (None, epochs)
    assert lengths.pairs([steps, "k", epochs]) == [(epochs, steps)]
    assert lengths.pairs([epochs]) == lengths.pairs([steps]) == []


@pytest.mark.parametrize("key", ["momentum", "stepsize", "every_n", "", "epochs_done", "_", "footsteps"])
def test_other_keys_are_no_lengths(key: str) -> None:
    assert lengths.other_unit(key) is None


@pytest.mark.parametrize(
    ("table", "key", "left", "removed"),
    [
        ({"epochs": 3, "seed": 1}, "steps", {"seed": 1}, "epochs"),
        ({"steps": 3}, "epochs", {}, "steps"),
        ({"epochs": {"use": "knn"}}, "steps", {"epochs": {"use": "knn"}}, None),  # a probe of that name
        ({"epochs": 3}, "seed", {"epochs": 3}, None),
        ({"warmup_epochs": 3}, "steps", {"warmup_epochs": 3}, None),
    ],
)
def test_one_unit_takes_the_place_of_the_other(table: dict[str, Any], key: str, left: Any, removed: Any) -> None:
    assert lengths.drop_other_unit(table, key) == removed
    assert table == left


def test_a_file_writes_a_length_once(recipe_text: str) -> None:
    text = f"steps = 3\n{recipe_text}warmup_epochs = 1\nwarmup_steps = 5\n"
    lines = len(text.splitlines())
    last = f"test.toml:{lines} and test.toml:{lines - 1}: [optimizer.warmup_steps] warmup_steps = 5: "
    assert messages(text) == [
        "test.toml:1 and test.toml:5: [steps] steps = 3: the same length is written as epochs = 2",
        "    write exactly one of epochs = ... and steps = ...",
        last + "the same length is written as warmup_epochs = 1",
        "    write exactly one of warmup_epochs = ... and warmup_steps = ...",
    ]


def test_a_component_writes_a_length_once(recipe_text: str) -> None:
    text = f'{recipe_text}\n[probes.linear]\nepochs = 3\nsteps = 5\n[probes.other]\nuse = "linear"\nsteps = 5\n'
    [what, _] = messages(text)
    assert what.endswith("[probes.linear.steps] steps = 5: the same length is written as epochs = 3")


def test_tables_of_these_names_are_no_lengths(recipe_text: str) -> None:
    assert not messages(f'{recipe_text}\n[probes.epochs]\nuse = "nearest"\n[probes.steps]\nuse = "nearest"\n')


def test_a_recipe_has_a_length(recipe_text: str) -> None:
    assert messages(recipe_text.replace("epochs = 2", "")) == [
        "test.toml: the recipe has no length: write exactly one of epochs = ... and steps = ..."
    ]


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["steps=3"], {"steps": 3}),
        (["epochs=3"], {"epochs": 3}),
        (["steps=3", "epochs=4"], {"epochs": 4}),  # the last one, as for one key
        (["epochs=3", "steps=4", "steps=5"], {"steps": 5}),
    ],
)
def test_an_override_takes_the_place_of_the_other_unit(recipe_text: str, sets: list[str], expected: Any) -> None:
    given = file(recipe_text, *sets)
    assert {key: given.values[key] for key in ("epochs", "steps") if key in given.values} == expected
    assert list(given.overrides.values()) == sets[-1:]
    again = file(recipe_text, *given.overrides.values())
    assert again.values == given.values
    assert not messages(recipe_text, *sets)


def test_an_override_takes_the_place_in_its_own_table_alone(recipe_text: str) -> None:
    text = f"{recipe_text}warmup_epochs = 1\n[probes.a]\nepochs = 7\n[probes.b]\nsteps = 8\n"
    values = file(text, "optimizer.warmup_steps=9", "probes.b.epochs=4").values
    assert (values["epochs"], "steps" in values) == (2, False)
    assert {key: value for key, value in values["optimizer"].items() if "warmup" in key} == {"warmup_steps": 9}
    assert values["probes"] == {"a": {"epochs": 7}, "b": {"epochs": 4}}


def test_a_constant_target_momentum_takes_the_place_of_its_end(recipe_text: str) -> None:
    text = f"{recipe_text}\n[target]\nmomentum = 0.9\nmomentum_end = 0.99\n"
    assert not messages(text, "target.schedule=constant")
    assert file(text, "target.schedule=constant").values["target"] == {"momentum": 0.9, "schedule": "constant"}
    assert file(text, "target.schedule=linear").values["target"]["momentum_end"] == 0.99
    assert "momentum_end = 0.5: " in messages(text, "target.schedule=constant", "target.momentum_end=0.5")[0]


def test_an_override_of_a_list_does_not_look_for_a_unit() -> None:
    values: dict[str, Any] = {"augment": {"scene": [{"size": 8}]}}
    assert not recipe_file.set_value(values, ("augment", "scene", "0"), {"size": 16}, "--set x")
    assert values["augment"]["scene"] == [{"size": 16}]
    with pytest.raises(UsageError, match="'steps' must be one of 0 to 0"):
        recipe_file.set_value(values, ("augment", "scene", "steps"), 3, "--set x")


@pytest.mark.parametrize(
    ("sets", "written"),
    [
        ([], {"epochs": 2.0, "warmup_epochs": 0.0}),
        (["steps=9", "optimizer.warmup_steps=4"], {"steps": 9, "warmup_steps": 4}),
        (["optimizer.warmup_steps=0"], {"epochs": 2.0, "warmup_steps": 0}),
        (["target.schedule=constant"], {"epochs": 2.0, "warmup_epochs": 0.0}),
    ],
)
def test_a_resolved_recipe_can_be_loaded_and_overridden(recipe_text, plugins, sets, written) -> None:
    from sslkit.planning import toml

    table, _ = recipe_file.check_structure(file(recipe_text, *sets))
    plan, _ = make_plan(table, plugins)
    resolved = toml.dumps(plan.resolved())
    given = file(resolved)
    names = ("epochs", "steps", "warmup_epochs", "warmup_steps")
    assert {key: item[key] for item in (given.values, given.values["optimizer"]) for key in names if key in item} == (
        written
    )
    again, problems = recipe_file.check_structure(given)
    assert not problems
    assert make_plan(again, plugins)[0].resolved() == plan.resolved()
    for change in ("steps=3", "epochs=3", "optimizer.warmup_steps=1", "optimizer.warmup_epochs=1"):
        assert not messages(resolved, change)
    assert not messages(resolved, "target.schedule=constant")


def test_options_that_are_not_read_are_not_resolved() -> None:
    options, problems = validate(schema(Component), {"warmup_steps": 4}, ())
    assert not problems
    assert lengths.written_once(options) == {"warmup_steps": 4, "inner_steps": 2}
    assert lengths.written_once(validate(schema(Component), {}, ())[0]) == {
        "warmup_epochs": 3.0, "warmup_steps": None, "inner_steps": 2,
    }  # fmt: skip


def test_a_component_leaves_steps_unset_beside_epochs() -> None:
    def maker(*, epochs: int = 3, steps: int = 4) -> None: ...

    with pytest.raises(TypeError, match=r"maker: option 'steps' must default to None, beside 'epochs'"):
        schema(maker)
