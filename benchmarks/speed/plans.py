"""Make plans of recipes that are texts in these modules."""

from __future__ import annotations

from sslkit.planning import recipe_file
from sslkit.planning.plan import Plan
from sslkit.planning.planner import make_plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.plugins import Plugins


def planned(text: str, *sets: str, plugins: Plugins | None = None) -> tuple[Plan, RecipeFile]:
    """Make the plan of a recipe's text, with some keys changed."""
    given = recipe_file.parse(text, "speed", "speed.toml", sets)
    made, problems = recipe_file.check_structure(given)
    assert made, recipe_file.format_problems(given, problems)
    plan, problems = make_plan(made, plugins or Plugins.load())
    assert plan, recipe_file.format_problems(given, problems)
    return plan, given
