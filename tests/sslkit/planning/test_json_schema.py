"""The schema accepts what `check` accepts, and refuses what it refuses."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sslkit.planning import recipe_file
from sslkit.planning.json_schema import recipe_schema
from sslkit.plugins import Plugins


@pytest.fixture(scope="session")
def validator(installed):
    described = recipe_schema(installed)
    jsonschema.Draft202012Validator.check_schema(described)
    return jsonschema.Draft202012Validator(described)


@pytest.mark.parametrize("name", sorted(recipe_file.shipped_recipes()))
def test_our_recipes_are_valid(validator, name) -> None:
    validator.validate(tomllib.loads(Path(recipe_file.shipped_recipes()[name]).read_text()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_sise", 8),
        ("precision", "fp8"),
        ("backbone", {"use": "resnet18", "stemm": "small"}),
        ("backbone", {"use": "resnet51"}),
        ("backbone", {"use": "resnet18", "stem": "tiny"}),
        ("objectives", {}),
        ("objectives", {"scene-scene": {"wieght": 2}}),
        ("objectives", {"mine": {"weight": 2}}),
        ("objectives", {"moco": {"use": "lightly/moco-v3", "queue": 512}}),
        ("optimizer", {"use": "lars"}),
        ("optimizer", {"use": "sgd", "base_lr": 0.1, "betas": [0.9, 0.99]}),
    ],
)
def test_faults_are_refused(validator, key, value) -> None:
    values = tomllib.loads(Path(recipe_file.shipped_recipes()["univip_coco"]).read_text())
    values["source"]["root"] = "data/coco"
    values[key] = value
    assert not validator.is_valid(values)


def test_a_table_named_like_a_component_may_use_another(validator) -> None:
    values = tomllib.loads(Path(recipe_file.shipped_recipes()["univip_coco"]).read_text())
    values["objectives"] = {"moco": {"use": "lightly/moco-v3", "temperature": 0.5}, "mine": {"use": "koleo"}}
    validator.validate(values)


THRESHOLDS = {
    "enough", "kvals", "max_merging_iterations", "max_pixels", "min_overlap", "min_side", "min_sides", "min_size", "top",
    "working_side",
}  # fmt: skip
"""Whole numbers that take no memory or time however high they are: what is compared with them is bounded itself."""


def _endless(node: Any, name: str = "") -> Iterator[str]:
    """Yield the name of each whole number in a schema that has no maximum."""
    if isinstance(node, dict):
        if node.get("type") == "integer" and not {"maximum", "exclusiveMaximum"} & node.keys():
            yield name
        for key, part in node.get("properties", {}).items():
            yield from _endless(part, key)
        for key, part in node.items():
            if key != "properties":
                yield from _endless(part, name)
    elif isinstance(node, list):
        for part in node:
            yield from _endless(part, name)


def test_every_whole_number_has_an_upper_bound(installed: Plugins) -> None:
    assert set(_endless(recipe_schema(installed))) <= THRESHOLDS


def test_options_are_described(validator) -> None:
    alternatives = validator.schema["properties"]["backbone"]["anyOf"]
    [resnet] = [item for item in alternatives if item["title"] == "torchvision/resnet50"]
    assert resnet["description"]
    assert resnet["properties"]["use"]["enum"] == ["torchvision/resnet50", "resnet50"]
    assert resnet["properties"]["width"]["default"] == 64
