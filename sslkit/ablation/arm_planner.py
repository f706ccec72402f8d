"""Turn requests into arms: the full recipe, and one variant of it per request."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import replace

from sslkit.ablation.arms import Arm, RecipeEditor
from sslkit.ablation.requests import ArmRequests, parse_changes
from sslkit.errors import UsageError
from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.plugins import Plugins


def make_arms(full: RecipeFile, plan: Plan, plugins: Plugins, requests: ArmRequests) -> list[Arm]:
    """Return the full recipe and every requested variant, in the order of the options.

    Args:
        full: The recipe with its `--set` overrides.
        plan: Its plan.
        plugins: Plugins whose components `--add` and `--swap` may name.
        requests: The variants to make.

    Raises:
        UsageError: Nothing is requested, a name or key does not exist, or an arm would have no objective left. The
            message lists every fault.
    """
    planner = ArmPlanner(full, plan, plugins)
    arms = [Arm("full", "", full.values), *planner.variants(requests)]
    for arm, other in itertools.combinations(arms, 2):
        if arm.name == other.name and arm.values != other.values:
            planner.editor.report(f"{other.option}: another arm is named '{arm.name}'; give this one a different name")
    if planner.faults:
        raise UsageError("\n".join(planner.faults))
    if len(arms) == 1:
        known = ", ".join(plan.recipe.objectives)
        raise UsageError(
            "nothing is varied: write --drop NAME, --drop-each, --add NAME, --swap A=B, --vary KEY=A,B, --factorial or "
            f'--arm "NAME: CHANGES" (objectives: {known})'
        )
    return arms


class ArmPlanner:
    """Makes the requested variants of a recipe.

    Attributes:
        editor: Edits the full recipe.
        faults: One message per invalid request.
    """

    def __init__(self, full: RecipeFile, plan: Plan, plugins: Plugins) -> None:
        self.faults: list[str] = []
        self.editor = RecipeEditor(full, plan, plugins, self.faults)

    def variants(self, requests: ArmRequests) -> Iterator[Arm]:
        """Yield the requested arms; invalid requests become faults."""
        edit = self.editor
        yield from filter(None, map(edit.drop, requests.drop))
        if requests.drop_each:
            yield from self._drop_each()
        yield from filter(None, map(edit.add, requests.add))
        yield from filter(None, map(edit.swap, requests.swap))
        for words in requests.vary:
            yield from edit.vary(words)
        yield from filter(None, map(self._combine, requests.arm))
        if requests.factorial:
            yield from self._factorial()

    def _drop_each(self) -> Iterator[Arm]:
        names = self.editor.objectives
        if len(names) == 1:
            self.editor.report(f"--drop-each leaves no objective: the recipe has only {names[0]}")
            return
        for name in names:
            yield Arm(f"drop-{name}", "--drop-each", self.editor.without([name]))

    def _factorial(self) -> Iterator[Arm]:
        names = self.editor.objectives
        if len(names) == 1:
            self.editor.report(f"--factorial needs two or more objectives: the recipe has only {names[0]}")
        for size in range(len(names) - 1, 0, -1):
            for subset in itertools.combinations(names, size):
                dropped = [name for name in names if name not in subset]
                yield Arm(f"only-{'+'.join(subset)}", "--factorial", self.editor.without(dropped))

    def _combine(self, words: str) -> Arm | None:
        """Apply several changes one after another, "NAME: --drop A,B --swap C=D --set KEY=VALUE"."""
        name, _, text = (part.strip() for part in words.partition(":"))
        option = f"--arm {shlex.quote(words)}"
        changes = parse_changes(text)
        if not name or name == "full" or not changes:
            self.editor.report(
                f'{option}: write --arm "NAME: --drop A,B --swap C=D --add E --set KEY=VALUE"; "full" is taken'
            )
            return None
        editor = self.editor
        for flag, change in changes:
            arm = _apply(editor, flag, change)
            if arm is None:
                return None
            editor = _editor_of(arm, editor)
        return Arm(name, option, editor.recipe.values)


def _apply(editor: RecipeEditor, flag: str, change: str) -> Arm | None:
    """Make one of the changes of `--arm`."""
    edits = {"--drop": editor.drop, "--add": editor.add, "--swap": editor.swap, "--set": editor.set}
    return edits[flag](change)


def _editor_of(arm: Arm, editor: RecipeEditor) -> RecipeEditor:
    """Return an editor that changes an arm further."""
    recipe = replace(editor.recipe, values=dict(arm.values))
    return RecipeEditor(recipe, editor.plan, editor.plugins, editor.faults, list(recipe.values["objectives"]))
