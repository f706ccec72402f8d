"""Build one component outside of a recipe, with checked options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkit.axes import parse
from sslkit.contracts.blame import blamed
from sslkit.errors import RecipeError
from sslkit.foreign.signatures import schema
from sslkit.planning.options import validate
from sslkit.plugins import Component, Plugins


def build(kind: str, name: str, options: Mapping[str, Any], plugins: Plugins, *wiring: Any) -> Any:
    """Build a component; `wiring` goes to the parameters left of `*`.

    Raises:
        PluginError: No plugin offers it, or its constructor failed.
        RecipeError: An option is unknown or out of range, or the component refuses them.
    """
    component = plugins.find(kind, name)
    with blamed(component, "__init__"):  # a validator of an option may raise anything
        checked, problems = validate(schema(component.cls), options, ())
    if problems:
        lines = [f"{component.id}: {item.what}{item.instead and '; '}{item.instead}" for item in problems]
        raise RecipeError("\n".join(lines), problems)
    with blamed(component, "__init__"):
        try:
            return component.cls(*wiring, **checked)
        except ValueError as error:
            raise RecipeError(f"{component.id}: {error}") from None


def build_objective(name: str, dims: Mapping[str, int], options: Mapping[str, Any], plugins: Plugins) -> Any:
    """Build an objective for rows of known sizes.

    Raises:
        PluginError: No plugin offers it.
        RecipeError: A size is missing, or an option is unknown or out of range.
    """
    component = plugins.find("objective", name)
    if missing := [axis for axis in _sized_axes(component) if axis not in dims]:
        rows = ", ".join(f'"{row}"' for row in component.cls.requires.values())
        raise RecipeError(f"{component.id}: dims = {dict(dims)} lacks {', '.join(missing)}; it reads {rows}")
    return build("objective", component.id, options, plugins, dims)


def _sized_axes(component: Component) -> list[str]:
    """Return the named axes of an objective's required rows whose size is known without data.

    These are the number of views and the number of features. The batch, and the positions of maps and tokens, are not.
    """
    axes: list[str] = []
    for row in component.cls.requires.values():
        path, _, spec = row.partition(":")
        names = parse(spec)
        features = () if path.startswith("batch.") else names[3:4] if len(names) == 4 else names[2:3]
        sized = [axis for axis in (*names[1:2], *features) if isinstance(axis, str)]
        axes += [axis for axis in sized if axis not in axes]
    return axes
