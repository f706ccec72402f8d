"""Open what a run reads, and make what is missing where the recipe says so."""

from __future__ import annotations

from sslkit.api import Proposals, Source
from sslkit.errors import DataError
from sslkit.folders import cores
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import RecipeFile
from sslkit.progress import bar


def prepare(plan: Plan, text: RecipeFile | None = None) -> tuple[Source, Proposals | None]:
    """Make, open and return the source and its proposals.

    Args:
        plan: Names them.
        text: Of the recipe, so that a message can say the very command that makes what is missing.

    Raises:
        DataError: Something is missing that nobody may make; the message says which command does.
    """
    source: Source = plan.source.make()
    if missing := source.missing():
        raise DataError(missing)
    with bar() as progress:
        source.prepare(progress)
        source.open()
        if plan.proposer is None:
            return source, None
        proposer = plan.proposer.make()
        missing = proposer.missing(source)
        if missing and plan.recipe.proposals and plan.recipe.proposals.when_missing == "build":
            proposer.build(source, progress, cores())
            missing = None
    if missing:
        raise DataError(missing.replace("RECIPE", text.arguments) if text else missing)
    return source, proposer.open(source)
