"""Which variants of a recipe are asked for: dropped, added, swapped and varied, each a recipe of its own."""

from __future__ import annotations

import copy
import itertools
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sslkit.errors import PluginError, UsageError, closest
from sslkit.planning import toml
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import ObjectiveTable, OptimizerTable, ProposalsTable, RecipeFile, put, value
from sslkit.plugins import Plugins

_PARTS = {"source": (), "proposals": ("when_missing",), "sampler": (), "backbone": (), "optimizer": ()}
"""Tables beside the objectives that can be swapped."""


@dataclass(frozen=True)
class Asked:
    """The command line's words, as they were given.

    Attributes:
        drop: Each "NAME" or "NAME,NAME" is an arm without these objectives.
        add: Each "NAME" or "NAME={...}" is an arm with one objective more.
        swap: Each "A=B" is an arm with B in place of A: an objective, or a table such as the sampler.
        vary: Each "KEY=VALUE,VALUE" is an arm for every value.
        arm: Each "NAME: --drop A,B --swap C=D --set KEY=VALUE" is one arm with all of these changes.
        drop_each: One arm without each objective.
        factorial: Every subset of the objectives but the empty one.
    """

    drop: Sequence[str] = ()
    add: Sequence[str] = ()
    swap: Sequence[str] = ()
    vary: Sequence[str] = ()
    arm: Sequence[str] = ()
    drop_each: bool = False
    factorial: bool = False


@dataclass(frozen=True)
class Arm:
    """One variant.

    Attributes:
        name: "full", "drop-instance-instance", "sampler.instances=2", ...
        asked: The option that asked for it; empty for the full recipe.
        values: Its recipe, as parsed TOML.
        varied: The key that `--vary` set, or an empty string.
    """

    name: str
    asked: str
    values: Mapping[str, Any] = field(repr=False)
    varied: str = ""

    def text(self, full: RecipeFile, seed: int) -> RecipeFile:
        """Return its recipe with a seed; messages name the file and lines of the full recipe."""
        where = f"{full.origin} ({self.asked})" if self.asked else full.origin
        return RecipeFile(full.name, where, {**copy.deepcopy(self.values), "seed": seed}, full.lines, full.overrides)


def arms(full: RecipeFile, plan: Plan, plugins: Plugins, asked: Asked) -> list[Arm]:
    """Return the full recipe and every variant that is asked for, in the order of the options.

    Args:
        full: The recipe with its `--set` overrides.
        plan: Made of it.
        plugins: That know what `--add` and `--swap` may name.
        asked: What is wanted.

    Raises:
        UsageError: With every name or key that does not exist, and every arm that would have no objective left.
    """
    maker = ArmPlanner(full, plan, plugins)
    made = [Arm("full", "", full.values), *maker.all(asked)]
    for arm, other in itertools.combinations(made, 2):
        if arm.name == other.name and arm.values != other.values:
            maker.fault(f"{other.asked}: there is another arm '{arm.name}'; give this one a name of its own")
    if maker.faults:
        raise UsageError("\n".join(maker.faults))
    if len(made) == 1:
        known = ", ".join(plan.recipe.objectives)
        raise UsageError(
            "nothing is varied: write --drop NAME, --drop-each, --add NAME, --swap A=B, --vary KEY=A,B, --factorial or "
            f'--arm "NAME: CHANGES" (objectives: {known})'
        )
    return made


class ArmPlanner:
    """Makes arms and collects what is wrong with the words that ask for them."""

    def __init__(self, full: RecipeFile, plan: Plan, plugins: Plugins, names: list[str] | None = None) -> None:
        self.full, self.plan, self.plugins = full, plan, plugins
        self.names = list(plan.recipe.objectives) if names is None else names
        self.faults: list[str] = []

    def all(self, asked: Asked) -> Iterator[Arm]:
        for words in asked.drop:
            yield from self.drop(words)
        if asked.drop_each:
            yield from self.drop_each()
        for words in asked.add:
            yield from self.add(words)
        for words in asked.swap:
            yield from self.swap(words)
        for words in asked.vary:
            yield from self.vary(words)
        for words in asked.arm:
            yield from self.combined(words)
        if asked.factorial:
            yield from self.factorial()

    def fault(self, what: str) -> None:
        if what not in self.faults:
            self.faults.append(what)

    # ---------------------------------------------------------------------------------------- objectives

    def find(self, word: str, option: str) -> str | None:
        """Return the objective of the recipe that a word names: by its table, or by its component."""
        if word in self.names:
            return word
        used = [
            item.name
            for item in self.plan.objectives
            if item.name in self.names and word in _names(item.made.component.id)
        ]
        if len(used) == 1:
            return used[0]
        hint = closest(word, self.names) or f"; it has {', '.join(self.names)}"
        self.fault(f"{option}: {self.full.origin} has no objective '{word}'{hint}")
        return None

    def without(self, dropped: Iterable[str]) -> dict[str, Any]:
        values = _copy(self.full)
        for name in dropped:
            del values["objectives"][name]
        return values

    def drop(self, words: str) -> Iterator[Arm]:
        option = f"--drop {words}"
        found = [self.find(word.strip(), option) for word in words.split(",")]
        names = [name for name in dict.fromkeys(found) if name]
        if len(names) < len(found):
            return
        if len(names) == len(self.names):
            self.fault(f"{option} leaves no objective: the recipe has only {', '.join(self.names)}")
            return
        yield Arm(f"drop-{'+'.join(names)}", option, self.without(names))

    def drop_each(self) -> Iterator[Arm]:
        if len(self.names) == 1:
            self.fault(f"--drop-each leaves no objective: the recipe has only {self.names[0]}")
            return
        for name in self.names:
            yield Arm(f"drop-{name}", "--drop-each", self.without([name]))

    def factorial(self) -> Iterator[Arm]:
        if len(self.names) == 1:
            self.fault(f"--factorial needs two objectives or more: the recipe has only {self.names[0]}")
        for size in range(len(self.names) - 1, 0, -1):
            for kept in itertools.combinations(self.names, size):
                dropped = [name for name in self.names if name not in kept]
                yield Arm(f"only-{'+'.join(kept)}", "--factorial", self.without(dropped))

    def add(self, words: str) -> Iterator[Arm]:
        word, equals, written = words.partition("=")
        option = f"--add {words}"
        id_ = self.component("objective", word.strip(), option)
        table = value(written) if equals else {}
        if not isinstance(table, dict):
            self.fault(f'{option}: {written} is no table; write --add "{word}={{weight = 0.5}}"')
            return
        if id_ is None:
            return
        name = id_.partition("/")[2]
        if name in self.names:
            self.fault(f"{option}: the recipe has an objective '{name}' already; --vary changes its options")
            return
        values = _copy(self.full)
        values["objectives"][name] = {"use": id_, **table}
        yield Arm(f"add-{name}", option, values)

    def component(self, kind: str, word: str, option: str) -> str | None:
        try:
            return self.plugins.find(kind, word).id
        except PluginError as error:
            self.fault(f"{option}: {error}")
            return None

    # -------------------------------------------------------------------------------------- swap and vary

    def swap(self, words: str) -> Iterator[Arm]:
        option = f"--swap {words}"
        old, equals, new = (part.strip() for part in words.partition("="))
        if not equals or not old or not new:
            self.fault(f"{option}: write --swap A=B, such as --swap scene-scene=byol or --swap sampler=two-views")
            return
        yield from self.swap_part(old, new, option) if old in _PARTS else self.swap_objective(old, new, option)

    def swap_part(self, part: str, new: str, option: str) -> Iterator[Arm]:
        kind = "proposer" if part == "proposals" else part
        if part != "optimizer" and self.component(kind, new, option) is None:
            return
        values = _copy(self.full)
        model = {"optimizer": OptimizerTable, "proposals": ProposalsTable}.get(part)
        values[part] = {"use": new, **_kept(values.get(part, {}), model)}
        yield Arm(f"{part}={new}", option, values)

    def swap_objective(self, old: str, new: str, option: str) -> Iterator[Arm]:
        name = self.find(old, option)
        id_ = self.component("objective", new, option)
        if name is None or id_ is None:
            return
        short = id_.partition("/")[2]
        if short in self.names and short != name:
            self.fault(f"{option}: the recipe has an objective '{short}' already")
            return
        values = _copy(self.full)
        values["objectives"] = {
            (short if key == name else key): ({"use": id_, **_kept(table, ObjectiveTable)} if key == name else table)
            for key, table in values["objectives"].items()
        }
        yield Arm(f"{name}-to-{short}", option, values)

    def vary(self, words: str) -> Iterator[Arm]:
        option = f"--vary {words}"
        key, equals, written = words.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not written.strip() or not all(path):
            self.fault(f"{option}: write --vary KEY=VALUE,VALUE, such as --vary sampler.instances=1,2,8")
            return
        if not self.is_key(".".join(path)):
            known = toml.flatten(self.plan.resolved())
            self.fault(f"{option}: the recipe has no key '{'.'.join(path)}'{closest('.'.join(path), known)}")
            return
        for item in _values(written):
            values = _copy(self.full)
            put(values, path, item, option)
            name = f"{'.'.join(path)}={item if isinstance(item, str) else toml.written(item)}"
            yield Arm(name, option, values, ".".join(path))

    # -------------------------------------------------------------------------------------- several changes

    def combined(self, words: str) -> Iterator[Arm]:
        name, _, written = (part.strip() for part in words.partition(":"))
        option = f"--arm {shlex.quote(words)}"
        changes = _changes(written)
        if not name or name == "full" or not changes:
            self.fault(f'{option}: write --arm "NAME: --drop A,B --swap C=D --add E --set KEY=VALUE"; "full" is taken')
            return
        maker = self
        for flag, word in changes:
            made = list(maker.change(flag, word))
            if not made:
                return
            maker = maker.after(made[0])
        yield Arm(name, option, maker.full.values)

    def change(self, flag: str, word: str) -> Iterator[Arm]:
        """Make one change of an arm that has several; nothing comes of it when it has a fault."""
        made = {"--drop": self.drop, "--add": self.add, "--swap": self.swap, "--set": self.set}
        return made[flag](word)

    def set(self, words: str) -> Iterator[Arm]:
        key, equals, written = words.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path) or path == ("seed",):
            self.fault(f"--set {words}: write --set KEY=VALUE, such as --set sampler.instances=2; seeds are --seeds'")
            return
        values = _copy(self.full)
        put(values, path, value(written), f"--set {words}")
        yield Arm(words, f"--set {words}", values)

    def after(self, arm: Arm) -> ArmPlanner:
        """Return a maker that changes an arm further."""
        text = replace(self.full, values=dict(arm.values))
        maker = ArmPlanner(text, self.plan, self.plugins, list(text.values["objectives"]))
        maker.faults = self.faults
        return maker

    def is_key(self, key: str) -> bool:
        """Say whether a value or a whole table stands, or by default holds, at a dotted key."""
        known = [*toml.flatten(self.plan.resolved()), *toml.flatten(self.full.values), *self.unset()]
        return key != "seed" and any(item == key or item.startswith(f"{key}.") for item in known)

    def unset(self) -> list[str]:
        """Return keys that may be set and are absent by default."""
        recipe = self.plan.recipe
        return [
            f"{prefix}{name}"
            for prefix, model in (("", recipe), ("optimizer.", recipe.optimizer))
            for name in type(model).model_fields
        ]


def _names(id_: str) -> tuple[str, str]:
    return id_, id_.partition("/")[2]


def _copy(text: RecipeFile) -> dict[str, Any]:
    values = copy.deepcopy(text.values)
    assert isinstance(values, dict)
    return values


def _kept(table: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return what a table says to the core; the options belonged to the component that goes."""
    known = set(model.model_fields) - {"use"} if model else set()
    return {key: item for key, item in table.items() if key in known}


def _changes(written: str) -> list[tuple[str, str]]:
    """Read "--drop A --swap B=C" as pairs of an option and its value; empty if it is anything else."""
    try:
        words = shlex.split(written)
    except ValueError:
        return []
    flags, values = words[::2], words[1::2]
    if len(flags) != len(values) or not set(flags) <= {"--drop", "--add", "--swap", "--set"}:
        return []
    return list(zip(flags, values, strict=True))


def _values(written: str) -> list[Any]:
    """Read values with commas between them; words need no quotes."""
    try:
        read: list[Any] = tomllib.loads(f"values = [{written}]")["values"]
    except tomllib.TOMLDecodeError:
        return [value(part.strip()) for part in written.split(",")]
    return read
