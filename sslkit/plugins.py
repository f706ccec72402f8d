"""Find, load and list plugins. A broken plugin does not affect the others, and every component records its owner.

The command line makes a `Plugins` object and passes it down; nothing here is global.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pluggy

from sslkit import hookspecs
from sslkit.errors import PluginError, SslkitError, closest
from sslkit.hookspecs import COLLECTING

GROUP = "sslkit"
_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


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


@contextmanager
def blamed(component: Component) -> Iterator[None]:
    """Name the component, its plugin and the line when the code inside the block fails.

    Raises:
        PluginError: Any exception was raised other than sslkit's errors and out-of-memory errors.
    """
    try:
        yield
    except (SslkitError, MemoryError):
        raise
    except Exception as error:
        if "out of memory" in str(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            f"{component.kind} '{component.id}' of {component.owner} failed: {type(error).__name__}: {error}\n"
            f"    {last.filename}, line {last.lineno}, in {last.name}"
        ) from error


@dataclass(frozen=True)
class Broken:
    """A plugin that cannot be used, and the reason."""

    owner: Owner
    reason: str


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
        claims = _claims(entry_points(group=GROUP) if points is None else points)
        for name in _selected(only, claims):
            plugins._load(name, claims[name])
        return plugins

    def _load(self, name: str, claims: Sequence[tuple[EntryPoint, Owner]]) -> None:
        if len(claims) > 1:
            rivals = " and ".join(f"{owner.distribution} {owner.version}" for _, owner in claims)
            reason = f"{rivals} both claim the name '{name}': uninstall one of them"
            self.broken += [Broken(owner, reason) for _, owner in claims]
            return
        [(point, owner)] = claims
        try:
            self.add(owner, point.load())
        except Exception as error:  # a third party's import may raise anything, and must not affect other plugins
            self.broken.append(Broken(owner, _reason(error)))

    def add(self, owner: Owner, module: object) -> None:
        """Register one plugin module.

        Raises:
            PluginError: It has a misspelt hook, or one with the wrong arguments.
        """
        _check_hooks(self.manager, module)
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
                component, fault = _component(kind, cls, owner)
                if fault is None and component.id in components:
                    fault = f"it offers two {kind}s named '{component.id}'"
                if fault:
                    self.broken.append(Broken(owner, fault))
                else:
                    components[component.id] = component
        return components

    def _call(self, hook: str) -> list[tuple[Owner, Sequence[Any]]]:
        results: list[tuple[Owner, Sequence[Any]]] = []
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            owner = self.owners[impl.plugin_name]
            try:
                results.append((owner, list(impl.function())))
            except Exception as error:  # see _load
                self.broken.append(Broken(owner, f"{hook}() failed: {_reason(error)}"))
        return sorted(results, key=lambda result: result[0].plugin)

    def find(self, kind: str, name: str) -> Component:
        """Return the component with this full id ("univip/scene-scene") or unambiguous short name.

        Raises:
            PluginError: The name is unknown (close matches are named), or several plugins offer it.
        """
        known = self.components[kind]
        if name in known:
            return known[name]
        matches = [id_ for id_ in known if id_.partition("/")[2] == name]
        if len(matches) == 1:
            return known[matches[0]]
        if matches:
            raise PluginError(f"{kind} '{name}' is offered by several plugins: write {' or '.join(matches)}")
        raise PluginError(self._unknown(kind, name))

    def _unknown(self, kind: str, name: str) -> str:
        for broken in self.broken:
            if name.startswith(f"{broken.owner.plugin}/"):
                return f"{kind} '{name}' is in plugin '{broken.owner.plugin}', which is broken: {broken.reason}"
        ids = list(self.components[kind])
        shorts = [id_.partition("/")[2] for id_ in ids]
        hint = closest(name, shorts + ids) or f"; known: {', '.join(sorted(shorts)) or 'none'}"
        broken_names = sorted({item.owner.plugin for item in self.broken})
        also = f" (broken plugins: {', '.join(broken_names)}; see `sslkit plugins`)" if broken_names else ""
        return f"unknown {kind} '{name}'{hint}{also}"

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
        declaring = self.declaring(kind, attribute)
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
        return {
            f"{owner.plugin}/{Path(path).stem}": Path(path)
            for owner, paths in self._call("sslkit_recipes")
            for path in paths
        }

    def commands(self, make_app: Callable[[str], Any]) -> None:
        """Let each plugin add its commands to the app that `make_app(plugin name)` returns."""
        for impl in self.manager.hook.sslkit_commands.get_hookimpls():
            try:
                impl.function(app=make_app(impl.plugin_name))
            except Exception as error:  # see _load
                self.broken.append(Broken(self.owners[impl.plugin_name], f"sslkit_commands() failed: {_reason(error)}"))


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _claims(points: Iterable[EntryPoint]) -> dict[str, list[tuple[EntryPoint, Owner]]]:
    """Group entry points by name; a distribution that is on the path twice counts once."""
    claims: dict[str, dict[str, tuple[EntryPoint, Owner]]] = {}
    for point in points:
        name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "?")
        claims.setdefault(point.name, {}).setdefault(name, (point, Owner(point.name, name, version)))
    return {name: [rivals[dist] for dist in sorted(rivals)] for name, rivals in sorted(claims.items())}


def _selected(only: Iterable[str] | None, claims: Mapping[str, Any]) -> list[str]:
    if only is None:
        variable = os.environ.get("SSLKIT_PLUGINS")
        if variable is None:
            return list(claims)
        only = [name.strip() for name in variable.split(",") if name.strip()]
    chosen = list(only)
    for name in chosen:
        if name not in claims:
            known = ", ".join(claims) or "none"
            raise PluginError(f"no installed plugin is named '{name}'{closest(name, claims)} (installed: {known})")
    return sorted(set(chosen))


def _check_hooks(manager: pluggy.PluginManager, module: object) -> None:
    hooks = [name for name in dir(hookspecs) if name.startswith("sslkit_")]
    for name in dir(module):
        marked = manager.parse_hookimpl_opts(module, name) is not None
        if marked and name not in hooks:
            raise PluginError(f"it implements '{name}', which is not a hook of sslkit{closest(name, hooks)}")
        if not marked and name in hooks:
            raise PluginError(f"it defines {name}() without the decorator @sslkit.hookimpl, so it is never called")


def _component(kind: str, cls: Any, owner: Owner) -> tuple[Component, str | None]:
    name = getattr(cls, "name", None)
    component = Component(kind, f"{owner.plugin}/{name}", cls, owner)
    if not isinstance(cls, type):
        return component, f"it offers {cls!r} as {kind}, which is not a class"
    if not isinstance(name, str) or not _KEBAB.fullmatch(name):
        return (
            component,
            f"its {kind} {cls.__qualname__} has name = {name!r}: write a kebab-case name, like 'my-{kind}'",
        )
    return component, None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
