"""Recipes with problems, made valid without them, so that the rest can be checked as well."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from sslkit.errors import Problem
from sslkit.planning.recipe import Recipe
from sslkit.planning.recipe_file import RecipeFile, check_structure


def repaired(recipe_file: RecipeFile, problems: Sequence[Problem]) -> Recipe | None:
    """Return the recipe without its faulty keys, so that the rest can be checked as well; None if that is not valid."""
    values = copy.deepcopy(recipe_file.values)
    for problem in problems:
        _remove(values, problem.key)
    _fill_in(values)
    recipe, remaining = check_structure(RecipeFile(recipe_file.name, recipe_file.origin, values))
    return recipe if not remaining else None


def _fill_in(values: dict[str, Any]) -> None:
    """Put valid values in place of required ones that were invalid or missing, which have been reported already."""
    values.setdefault("batch_size", 2)
    if not ("epochs" in values) ^ ("steps" in values):
        values.pop("steps", None)
        values["epochs"] = 1
    if isinstance(values.get("optimizer"), dict):
        values["optimizer"].setdefault("base_lr", 0.1)


def _remove(values: Any, key: tuple[str, ...]) -> None:
    for part in key[:-1]:
        if isinstance(values, list) and part.isdecimal():
            values = values[int(part)]
        else:
            values = values.get(part, {}) if isinstance(values, dict) else {}
    if key and isinstance(values, dict):
        values.pop(key[-1], None)
