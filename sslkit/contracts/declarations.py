"""Check what components declare: their view groups, sizes, rows and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sslkit.axes import parse
from sslkit.contracts.blame import blamed, breach
from sslkit.plugins import Component

_GROUP = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
_ROWS = ("features", "map", "tokens")
_LABELS = {"single-label", "multi-label"}


def check_declarations(component: Component, built: Any) -> None:
    """Check what a component and its class declare.

    Args:
        component: The component.
        built: An instance.

    Raises:
        PluginError: A declaration is missing or breaks the contract.
    """
    check = _FAULTS.get(component.kind)
    if check is None:
        return
    for name, fault in check(component, built):
        raise breach(component, name, fault)


def _value(component: Component, built: Any, name: str) -> Any:
    """Return an attribute of a component, which may be a property that fails.

    Raises:
        PluginError: It is missing, or failed.
    """
    if not hasattr(type(built), name) and name not in vars(built):
        raise breach(component, name, "is missing: see sslkit.api")
    with blamed(component, name):
        return getattr(built, name)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _sampler(component: Component, built: Any) -> Iterator[tuple[str, str]]:
    groups = _value(component, built, "groups")
    if not isinstance(groups, Mapping) or not groups:
        yield "groups", f"is {groups!r}: write a dict, view group -> number of views"
        return
    for name, count in groups.items():
        if not isinstance(name, str) or not _GROUP.fullmatch(name):
            yield "groups", f"names a view group {name!r}: write letters, digits, '-' and '_'"
        elif not _is_size(count):
            yield "groups", f"gives {count!r} views of group '{name}': write a number of at least 1"
    proposals = _value(component, built, "needs_proposals")
    if not isinstance(proposals, bool):
        yield "needs_proposals", f"is {proposals!r}: write True or False"


def _backbone(component: Component, built: Any) -> Iterator[tuple[str, str]]:
    gives = _value(component, built, "gives")
    if not isinstance(gives, Mapping) or "features" not in gives or not set(gives) <= set(_ROWS):
        yield "gives", f"is {gives!r}: write a dict with 'features', and 'map' and 'tokens' if there are any"
        return
    for row, axes in gives.items():
        if fault := _axes_fault(axes):
            yield "gives", f"has the axes {axes!r} for '{row}': {fault}"
    yield from _size_fault(component, built, "dim")


def _head(component: Component, built: Any) -> Iterator[tuple[str, str]]:
    takes, gives = _value(component, built, "takes"), _value(component, built, "gives")
    if takes not in _ROWS:
        yield "takes", f"is {takes!r}: write one of {', '.join(map(repr, _ROWS))}"
    if fault := _axes_fault(gives):
        yield "gives", f"is {gives!r}: {fault}"
    yield from _size_fault(component, built, "out_dim")


def _size_fault(component: Component, built: Any, name: str) -> Iterator[tuple[str, str]]:
    size = _value(component, built, name)
    if not _is_size(size):
        yield name, f"is {size!r}: set it to the size of the output, a number of at least 1"


def _probe(component: Component, built: Any) -> Iterator[tuple[str, str]]:
    takes = _value(component, built, "takes")
    if isinstance(takes, str) or not takes or not set(takes) <= _LABELS:
        yield "takes", f'is {takes!r}: write a tuple of "single-label", "multi-label" or both'


def _axes_fault(axes: Any) -> str | None:
    if not isinstance(axes, str) or not axes.split():
        return "write axes, like 'd' or 'd h w'"
    try:
        parse(axes)
    except ValueError as error:
        return str(error)
    return None


def check_rows(component: Component) -> None:
    """Check the rows that an objective's class requires.

    Raises:
        PluginError: `requires` or `optional` is missing, or breaks the contract.
    """
    for name in ("requires", "optional"):
        rows = getattr(component.cls, name, None)
        if not isinstance(rows, Mapping) or (name == "requires" and not rows):
            raise breach(component, name, f"is {rows!r}: write a dict, parameter of forward -> row and axes")
        for parameter, row in rows.items():
            path, colon, axes = row.partition(":") if isinstance(row, str) else ("", "", "")
            fault = "write it like 'online.projection.scene: b v d'" if not (path and colon) else _axes_fault(axes)
            if fault:
                raise breach(component, name, f"has the row {row!r} for parameter {parameter!r}: {fault}")


_FAULTS = {"sampler": _sampler, "backbone": _backbone, "head": _head, "probe": _probe}
