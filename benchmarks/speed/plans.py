"""Plans of recipes that are written in these modules."""

from __future__ import annotations

from sslkit.planning import recipe
from sslkit.planning.plan import Plan
from sslkit.planning.planner import make_plan
from sslkit.planning.recipe import RecipeFile
from sslkit.plugins import Plugins


def planned(text: str, *sets: str, plugins: Plugins | None = None) -> tuple[Plan, RecipeFile]:
    """Make the plan of a recipe's text, with some keys changed."""
    given = recipe.parse(text, "speed", "speed.toml", sets)
    made, problems = recipe.structure(given)
    assert made, recipe.complaint(given, problems)
    plan, problems = make_plan(made, plugins or Plugins.load())
    assert plan, recipe.complaint(given, problems)
    return plan, given
