"""Check what components declare: their view groups, sizes, rows and labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sslkit.axes import parse
from sslkit.contracts.arrays import shown
from sslkit.contracts.blame import blamed, breach
from sslkit.errors import PluginError
from sslkit.plugins import Component

_GROUP = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
_ROWS = ("features", "map", "tokens")
_LABELS = {"single-label", "multi-label"}
MOST_VIEWS = 1000
"""Views of a group that a batch has room for."""
_LARGEST = 2**31 - 1
_MISSING = object()
Fault = tuple[str, str]
"""An attribute, and what is wrong with it."""
Check = Callable[[Component, Any], Iterator[Fault]]


def class_faults(component: Component) -> list[str]:
    """Return what is wrong with the declarations of a component's class, as messages."""
    return _messages(_OF_CLASSES, component, component.cls)


def instance_faults(component: Component, built: Any) -> list[str]:
    """Return what is wrong with the declarations of an instance of a component, as messages."""
    return _messages(_OF_INSTANCES, component, built)


def _messages(checks: Mapping[str, Check], component: Component, part: Any) -> list[str]:
    messages: list[str] = []
    try:
        if component.kind in checks:
            messages += [str(breach(component, *fault)) for fault in checks[component.kind](component, part)]
    except PluginError as error:  # an attribute that is missing, or a property that fails
        messages.append(str(error))
    return messages


def _value(component: Component, part: Any, name: str) -> Any:
    """Return an attribute of a component or its class.

    Raises:
        PluginError: It is missing, or a property that fails.
    """
    with blamed(component, name):
        value = getattr(part, name, _MISSING)
    if value is _MISSING:
        raise breach(component, name, "is missing: the contract in sslkit.api says what it holds")
    return value


def _sampler(component: Component, built: Any) -> Iterator[Fault]:
    groups, proposals = (_value(component, built, name) for name in ("groups", "needs_proposals"))
    if not isinstance(proposals, bool):
        yield "needs_proposals", f"is {shown(proposals)}: write True or False"
    if not isinstance(groups, Mapping) or not groups:
        yield "groups", f"is {shown(groups)}: write a dict, view group -> number of views"
        return
    for name, count in groups.items():
        if not isinstance(name, str) or not _GROUP.fullmatch(name):
            yield "groups", f"names a view group {shown(name)}: write letters, digits, '-' and '_'"
        elif not _is_size(count) or count > MOST_VIEWS:
            what = f"gives {shown(count)} views of group '{name}'"
            yield "groups", f"{what}: write a number of at least 1 and at most {MOST_VIEWS}"


def _source_class(component: Component, cls: Any) -> Iterator[Fault]:
    threads = _value(component, cls, "reads_in_threads")
    if not isinstance(threads, bool):
        yield "reads_in_threads", f"is {shown(threads)}: write True or False"


def _backbone(component: Component, built: Any) -> Iterator[Fault]:
    gives, dim = (_value(component, built, name) for name in ("gives", "dim"))
    if not isinstance(gives, Mapping) or gives.get("features") != "f" or not set(gives) <= set(_ROWS):
        yield (
            "gives",
            f"is {shown(gives)}: write {{'features': 'f'}}, and the axes of 'map' and 'tokens' if there are any",
        )
        return
    for row, axes in gives.items():
        if fault := _axes_fault(axes):
            yield "gives", f"has the axes {shown(axes)} for '{row}': {fault}"
    yield from _size_fault("dim", dim)


def _head_class(component: Component, cls: Any) -> Iterator[Fault]:
    takes, gives = (_value(component, cls, name) for name in ("takes", "gives"))
    if takes not in _ROWS:
        yield "takes", f"is {shown(takes)}: write one of {', '.join(map(repr, _ROWS))}"
    if fault := _axes_fault(gives):
        yield "gives", f"is {shown(gives)}: {fault}"


def _head(component: Component, built: Any) -> Iterator[Fault]:
    yield from _size_fault("out_dim", _value(component, built, "out_dim"))


def _objective_class(component: Component, cls: Any) -> Iterator[Fault]:
    for name in ("requires", "optional"):
        rows = _value(component, cls, name)
        if not isinstance(rows, Mapping) or (name == "requires" and not rows):
            yield name, f"is {shown(rows)}: write a dict, parameter of forward -> row and axes"
            continue
        for parameter, row in rows.items():
            if fault := _requirement_fault(row):
                yield name, f"has the row {shown(row)} for parameter {shown(parameter)}: {fault}"


def _requirement_fault(row: Any) -> str | None:
    path, _, axes = row.partition(":") if isinstance(row, str) else ("", "", "")
    if not path.strip() or not axes.strip():
        return "write it like 'online.projection.scene: b v d'"
    return _axes_fault(axes)


def _probe(component: Component, built: Any) -> Iterator[Fault]:
    takes = _value(component, built, "takes")
    if not isinstance(takes, (tuple, list, set, frozenset)) or not takes or not set(takes) <= _LABELS:
        yield "takes", f'is {shown(takes)}: write a tuple of "single-label", "multi-label" or both'


def _size_fault(name: str, size: Any) -> Iterator[Fault]:
    if not _is_size(size):
        yield name, f"is {shown(size)}: set it to the size of the output, a number of at least 1 and at most {_LARGEST}"


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST


def _axes_fault(axes: Any) -> str | None:
    if not isinstance(axes, str) or not axes.split():
        return "write axes, like 'd' or 'd h w'"
    try:
        parse(axes)
    except ValueError as error:
        return str(error)
    return None


_OF_CLASSES: Mapping[str, Check] = {
    "head": _head_class, "objective": _objective_class, "source": _source_class,
}  # fmt: skip
_OF_INSTANCES: Mapping[str, Check] = {"sampler": _sampler, "backbone": _backbone, "head": _head, "probe": _probe}
