"""The entry points of plugins: who claims which name, and which names a plugin may have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from sslkit.errors import PluginError, closest
from sslkit.files import reason

GROUP = "sslkit"
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
RESERVED = (
    "run", "probe", "check", "resolve", "diff", "schema", "recipes", "plugins", "views", "ablate", "doctor", "data",
    "verify",
)  # fmt: skip
"""The commands of the core: no plugin has such a name, as its own commands would take their place."""

_SHOWN = 100
"""Characters of a path that a message shows."""


@dataclass(frozen=True)
class Claim:
    """An entry point, with its distribution and that distribution's version."""

    point: EntryPoint
    distribution: str
    version: str


def claims(points: Iterable[EntryPoint] | None = None) -> dict[str, list[Claim]]:
    """Group entry points by name, sorted; a distribution that is on the path twice counts once.

    Args:
        points: Entry points instead of the installed ones.
    """
    by_name: dict[str, dict[str, Claim]] = {}
    for point in entry_points(group=GROUP) if points is None else points:
        name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "?")
        by_name.setdefault(point.name, {}).setdefault(name, Claim(point, name, version))
    return {name: [rivals[dist] for dist in sorted(rivals)] for name, rivals in sorted(by_name.items())}


def selected(only: Iterable[str] | None, known: Mapping[str, object]) -> list[str]:
    """Return the names of the plugins to load, sorted: those in `only`, in `SSLKIT_PLUGINS`, or all.

    Raises:
        PluginError: One of them is not installed.
    """
    if only is None:
        variable = os.environ.get("SSLKIT_PLUGINS")
        if variable is None:
            return list(known)
        only = [name.strip() for name in variable.split(",") if name.strip()]
    chosen = list(only)
    for name in chosen:
        if name not in known:
            installed = ", ".join(known) or "none"
            raise PluginError(f"no installed plugin is named '{name}'{closest(name, known)} (installed: {installed})")
    return sorted(set(chosen))


def name_fault(name: str) -> str | None:
    """Return why a plugin cannot have this name, or None."""
    where = "in [project.entry-points.sslkit]"
    if name in RESERVED:
        return f"'{name}' is a command of sslkit, and no name for a plugin: write another one {where}, like 'my-{name}'"
    if not KEBAB.fullmatch(name):
        return f"the plugin's name '{name}' is not in kebab-case: write '{_in_kebab_case(name)}' {where}"
    return None


def _in_kebab_case(name: str) -> str:
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", name).lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "my-plugin"


def path_fault(path: object) -> str | None:
    """Return why something is not the path of a file, or None."""
    if not isinstance(path, (str, Path)):
        return f"{path!r}, which is not a path"
    shown = str(path) if len(str(path)) <= _SHOWN else f"{str(path)[:_SHOWN]}..."
    try:
        is_file = Path(path).is_file()
    except (OSError, ValueError) as error:
        return f"{shown}, which cannot be read: {reason(error)}"
    return None if is_file else f"{shown}, which is not a file: does the wheel contain it?"
