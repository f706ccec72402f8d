"""What is wrong with the classes that plugins offer as components."""

from __future__ import annotations

from typing import Any

from sslkit.foreign.entries import KEBAB
from sslkit.foreign.places import location


def class_faults(kind: str, cls: Any) -> list[str]:
    """Return what is wrong with a class that a plugin offers as a component of some kind: each fault as a message."""
    fault = _class_fault(kind, cls)
    return [fault] if fault else _option_faults(kind, cls)


def _class_fault(kind: str, cls: Any) -> str | None:
    name = getattr(cls, "name", None)
    if not isinstance(cls, type):
        return f"it offers {cls!r} as {kind}, which is not a class"
    if not isinstance(name, str) or not KEBAB.fullmatch(name):
        return f"its {kind} {cls.__qualname__} has name = {name!r}: write a kebab-case name, like 'my-{kind}'"
    base = _base(kind)
    if not issubclass(cls, base):
        return f"its {kind} '{name}' is no {base.__name__}: write class {cls.__qualname__}(sslkit.api.{base.__name__})"
    return None


def _option_faults(kind: str, cls: Any) -> list[str]:
    from sslkit.foreign.signatures import option_faults  # imports pydantic

    return [f"its {kind} '{cls.name}': {fault}\n    {location(cls, '__init__')}" for fault in option_faults(kind, cls)]


def _base(kind: str) -> type[Any]:
    """Return the class that components of a kind extend."""
    from sslkit import api  # imports torch

    base: type[Any] = getattr(api, {"sampler": "ViewSampler"}.get(kind, kind.capitalize()))
    return base
