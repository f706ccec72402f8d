"""Open a run's source and proposals, after preparing what is missing and may be made."""

from __future__ import annotations

from contextlib import nullcontext

from sslkit.api import Progress, Source
from sslkit.contracts.proposals import CheckedProposals, CheckedProposer
from sslkit.contracts.sources import CheckedSource
from sslkit.errors import DataError
from sslkit.folders import cores
from sslkit.planning.plan import ConfiguredComponent, Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.progress import bar


def prepare(plan: Plan, recipe_file: RecipeFile | None = None) -> tuple[Source, CheckedProposals | None]:
    """Open and return the source and the proposals of a plan.

    Args:
        plan: The plan that names them.
        recipe_file: The plan's recipe, so that a message can name the exact command that makes what is missing.

    Raises:
        DataError: Something is missing that this run may not make; the message names the command that makes it.
        PluginError: The source or the proposer failed, or broke its contract.
    """
    source = open_source(plan.source)
    return source, _open_proposals(plan, source, recipe_file)


def make_source(configured: ConfiguredComponent) -> Source:
    """Build a source, whose answers are checked."""
    return CheckedSource(configured.component, configured.make())


def make_proposer(configured: ConfiguredComponent) -> CheckedProposer:
    """Build a proposer, whose answers are checked."""
    return CheckedProposer(configured.component, configured.make())


def open_source(configured: ConfiguredComponent, progress: Progress | None = None) -> Source:
    """Build, prepare, open and return a source.

    Args:
        configured: The source.
        progress: Shows the preparation; a new bar by default.

    Raises:
        DataError: Its data is missing.
        PluginError: It failed, or broke its contract.
    """
    source = make_source(configured)
    if missing := source.missing():
        raise DataError(missing)
    with bar() if progress is None else nullcontext(progress) as shown:
        source.prepare(shown)
        source.open()
    return source


def _open_proposals(plan: Plan, source: Source, recipe_file: RecipeFile | None) -> CheckedProposals | None:
    if plan.proposer is None:
        return None
    proposer = make_proposer(plan.proposer)
    if missing := proposer.missing(source):
        if not (plan.recipe.proposals and plan.recipe.proposals.when_missing == "build"):
            raise DataError(missing.replace("RECIPE", recipe_file.arguments) if recipe_file else missing)
        with bar() as progress:
            proposer.build(source, progress, cores())
    return proposer.open(source)
