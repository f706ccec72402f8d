"""Find, load and list plugins. A broken plugin does not affect the others, and every component records its owner.

The command line makes a `Plugins` object and passes it down; nothing here is global.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pluggy

from sslkit import hookspecs
from sslkit.errors import PluginError, closest
from sslkit.foreign import entries
from sslkit.foreign.classes import class_faults
from sslkit.foreign.entries import Claim
from sslkit.foreign.hooks import hook_faults
from sslkit.foreign.isolation import describe, isolated, stdout_as_stderr
from sslkit.hookspecs import COLLECTING

OWN = "sslkit"
"""The distribution whose components come first where several plugins offer a short name."""


@dataclass(frozen=True)
class Owner:
    """The provider of a plugin: the entry point's name, its distribution and that distribution's version."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin '{self.plugin}' ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Component:
    """A class that a recipe can name, with its full id and its owner."""

    kind: str
    id: str
    cls: type[Any]
    owner: Owner

    @property
    def summary(self) -> str:
        """The first line of the class's docstring."""
        return (self.cls.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Broken:
    """A plugin that cannot be used, or one component of it, and the reason.

    Attributes:
        kind: The kind of that component; empty for the plugin as a whole.
        id: Its full id.
    """

    owner: Owner
    reason: str
    kind: str = ""
    id: str = ""

    def is_named(self, kind: str, name: str) -> bool:
        """Return whether a component of this kind and name cannot be used because of it."""
        if self.kind:
            return self.kind == kind and name in (self.id, self.id.partition("/")[2])
        return name.startswith(f"{self.owner.plugin}/")


@dataclass
class Plugins:
    """The loaded plugins.

    Attributes:
        manager: pluggy's manager; `manager.hook` calls the reporting hooks.
        owners: Plugin name -> owner, for the plugins that loaded.
        broken: Plugins that failed to load, or to list their components.
    """

    manager: pluggy.PluginManager
    owners: dict[str, Owner] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    @classmethod
    def load(cls, only: Iterable[str] | None = None, points: Iterable[EntryPoint] | None = None) -> Plugins:
        """Load the plugins of all installed distributions, one by one, sorted by name.

        Args:
            only: Names to load; None reads `SSLKIT_PLUGINS` ("univip,images"), and loads all if it is not set.
            points: Entry points instead of the installed ones, for tests.

        Raises:
            PluginError: A name in `only` is not an installed plugin.
        """
        plugins = cls(_manager())
        claims = entries.claims(points)
        for name in entries.selected(only, claims):
            plugins._load(claims[name])
        return plugins

    def _load(self, claims: Sequence[Claim]) -> None:
        owners = [Owner(claim.point.name, claim.distribution, claim.version) for claim in claims]
        owner, name = owners[0], owners[0].plugin
        rivals = " and ".join(f"{rival.distribution} {rival.version}" for rival in owners)
        fault = entries.name_fault(name)
        if fault is None and len(owners) > 1:
            fault = f"{rivals} both claim the name '{name}': uninstall one of them"
        if fault:
            self.broken += [Broken(rival, fault) for rival in owners]
            return
        with _calling(owner, self.broken):
            self.add(owner, claims[0].point.load())

    def add(self, owner: Owner, module: object) -> None:
        """Register one plugin module.

        Raises:
            PluginError: It has a misspelt hook, one with the wrong arguments, or one that would never run.
        """
        for fault in hook_faults(self.manager, module, hookspecs):
            raise PluginError(fault)
        try:
            self.manager.register(module, owner.plugin)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(str(error)) from None
        self.owners[owner.plugin] = owner

    @cached_property
    def components(self) -> Mapping[str, Mapping[str, Component]]:
        """Kind -> full id -> component. The first use imports the plugins' components, and with them torch."""
        return MappingProxyType({kind: MappingProxyType(self._collect(kind)) for kind in COLLECTING})

    def _collect(self, kind: str) -> dict[str, Component]:
        components: dict[str, Component] = {}
        for owner, classes in self._call(COLLECTING[kind]):
            for cls in classes:
                with _calling(owner, self.broken, f"it offers a {kind} that cannot be looked at: "):
                    component = Component(kind, f"{owner.plugin}/{getattr(cls, 'name', None)}", cls, owner)
                    _offer(component, components, self.broken)
        return components

    def _call(self, hook: str) -> list[tuple[Owner, Sequence[Any]]]:
        results: list[tuple[Owner, Sequence[Any]]] = []
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            owner = self.owners[impl.plugin_name]
            with _calling(owner, self.broken, f"{hook}() failed: "):
                results.append((owner, list(impl.function())))
        return sorted(results, key=lambda result: result[0].plugin)

    def find(self, kind: str, name: str) -> Component:
        """Return the component with this full id ("univip/scene-scene") or short name; sslkit's own come first.

        Raises:
            PluginError: The name is unknown (close matches are named), or several plugins offer it.
        """
        offers = self.offers(kind, name)
        if not offers:
            raise PluginError(_unknown(self, kind, name))
        chosen = _own_first(offers)
        if len(chosen) > 1:
            ids = " or ".join(item.id for item in chosen)
            raise PluginError(f"{kind} '{name}' is offered by several plugins: write {ids}")
        return chosen[0]

    def offers(self, kind: str, name: str) -> list[Component]:
        """Return the component with this full id, or all those with this short name."""
        known = self.components[kind]
        return [known[name]] if name in known else [known[id_] for id_ in known if id_.partition("/")[2] == name]

    def folder_source(self) -> Component:
        """Return the source for plain folders of images: the one that declares `opens_folder`.

        Raises:
            PluginError: No source declares it, or several do.
        """
        return self._only("source", "opens_folder")

    def default_proposer(self) -> Component:
        """Return the proposer for plain folders of images: the one that declares `is_default`.

        Raises:
            PluginError: No proposer declares it, or several do.
        """
        return self._only("proposer", "is_default")

    def _only(self, kind: str, attribute: str) -> Component:
        declaring = _own_first(self.declaring(kind, attribute))
        if len(declaring) == 1:
            return declaring[0]
        ids = ", ".join(item.id for item in declaring)
        who = f"several {kind}s declare {attribute} ({ids})" if ids else f"no installed {kind} declares {attribute}"
        raise PluginError(f"a folder of images cannot be used: {who}; write a recipe that names a {kind}")

    def declaring(self, kind: str, attribute: str) -> list[Component]:
        """Return the components whose class sets an optional attribute, which is False or None by default."""
        return [
            item for item in self.components[kind].values() if getattr(item.cls, attribute, None) not in (None, False)
        ]

    def recipes(self) -> dict[str, Path]:
        """Return the recipes shipped inside plugin packages: `plugin/name` -> file."""
        recipes: dict[str, Path] = {}
        for owner, paths in self._call("sslkit_recipes"):
            for path in paths:
                fault: str | None = "what cannot be looked at"
                with isolated(lambda error: None):  # noqa: ARG005 - of any class, which may fail in any way
                    fault = entries.path_fault(path)
                if fault:
                    _add(self.broken, Broken(owner, f"sslkit_recipes() returned {fault}"))
                elif recipes.setdefault(id_ := f"{owner.plugin}/{Path(path).stem}", Path(path)) != Path(path):
                    _add(self.broken, Broken(owner, f"sslkit_recipes() returned two files for one name, {id_}"))
        return recipes

    def commands(self, make_app: Callable[[str], Any], add: Callable[[str, Any], object]) -> None:
        """Let each plugin add its commands to an app, and add that app: a plugin whose commands fail has none.

        Args:
            make_app: Returns a new app for a plugin's name.
            add: Called with a plugin's name and its app; what it raises is that plugin's failure.
        """
        for impl in self.manager.hook.sslkit_commands.get_hookimpls():
            app = make_app(impl.plugin_name)
            with _calling(self.owners[impl.plugin_name], self.broken, "sslkit_commands() failed: "):
                impl.function(app=app)
                add(impl.plugin_name, app)


@contextmanager
def _calling(owner: Owner, broken: list[Broken], what: str = "") -> Iterator[None]:
    """Run code of a plugin that collects; list the plugin as broken if it fails, with a reason that `what` begins."""
    with isolated(lambda error: _add(broken, Broken(owner, what + _reason(error)))), stdout_as_stderr():
        yield


def _offer(component: Component, components: dict[str, Component], broken: list[Broken]) -> None:
    """Add a component to others of its kind, or list it as broken."""
    faults = class_faults(component.kind, component.cls)
    if component.id in components:
        faults = [f"it offers two {component.kind}s named '{component.id}'"]
    for fault in faults:
        _add(broken, Broken(component.owner, fault, component.kind, component.id))
    if not faults:
        components[component.id] = component


def _add(broken: list[Broken], item: Broken) -> None:
    """List a plugin or a component as broken, once for each reason."""
    broken += [] if item in broken else [item]


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(entries.GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def why_broken(plugins: Plugins, name: str, kind: str | None = None) -> str | None:
    """Return why a component of this name, and this kind, cannot be used: it or its plugin is broken; or None."""
    items = [item for item in plugins.broken if item.is_named(kind or item.kind, name)]
    if not items:
        return None
    return "\n".join([f"'{name}' is in {items[0].owner}, which is broken:", *(item.reason for item in items)])


def _unknown(plugins: Plugins, kind: str, name: str) -> str:
    if reason := why_broken(plugins, name, kind):
        return f"{kind} {reason}"
    ids = list(plugins.components[kind])
    shorts = [id_.partition("/")[2] for id_ in ids]
    hint = closest(name, shorts + ids) or f"; known: {', '.join(sorted(shorts)) or 'none'}"
    broken_names = sorted({item.owner.plugin for item in plugins.broken})
    also = f" (broken plugins: {', '.join(broken_names)}; see `sslkit plugins`)" if broken_names else ""
    return f"unknown {kind} '{name}'{hint}{also}"


def _own_first(offers: list[Component]) -> list[Component]:
    """Return those of sslkit's own distribution, or all where it has none: installing a plugin changes no run."""
    return [item for item in offers if item.owner.distribution == OWN] or offers


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, PluginError) else describe(error)
