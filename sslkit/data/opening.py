"""Open a run's source and proposals, after preparing what is missing and may be made."""

from __future__ import annotations

from contextlib import nullcontext

from sslkit.api import Progress, Proposals, Source
from sslkit.errors import DataError
from sslkit.folders import cores
from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.progress import bar


def prepare(plan: Plan, recipe_file: RecipeFile | None = None) -> tuple[Source, Proposals | None]:
    """Open and return the source and the proposals of a plan.

    Args:
        plan: The plan that names them.
        recipe_file: The plan's recipe, so that a message can name the exact command that makes what is missing.

    Raises:
        DataError: Something is missing that this run may not make; the message names the command that makes it.
    """
    source = open_source(plan.source.make())
    return source, _open_proposals(plan, source, recipe_file)


def open_source(source: Source, progress: Progress | None = None) -> Source:
    """Prepare, open and return a source.

    Args:
        source: A source that has not been opened.
        progress: Shows the preparation; a new bar by default.

    Raises:
        DataError: Its data is missing.
    """
    if missing := source.missing():
        raise DataError(missing)
    with bar() if progress is None else nullcontext(progress) as shown:
        source.prepare(shown)
        source.open()
    return source


def _open_proposals(plan: Plan, source: Source, recipe_file: RecipeFile | None) -> Proposals | None:
    if plan.proposer is None:
        return None
    proposer = plan.proposer.make()
    if missing := proposer.missing(source):
        if not (plan.recipe.proposals and plan.recipe.proposals.when_missing == "build"):
            raise DataError(missing.replace("RECIPE", recipe_file.arguments) if recipe_file else missing)
        with bar() as progress:
            proposer.build(source, progress, cores())
    proposals: Proposals = proposer.open(source)
    return proposals
