"""Axis strings, which describe the shapes of contracts: "b v d", "b 4", "3 h w".

An axis is a name or a number. Numbers must be equal. A name is bound to the first size that it is matched with, and
keeps it within one component (`b`, the batch, is the same everywhere).
"""

from __future__ import annotations

from collections.abc import Sequence

Axis = str | int
"""The name of an axis, or its size."""


def parse(spec: str) -> tuple[Axis, ...]:
    """Split an axis string: `"b 2 d"` gives `("b", 2, "d")`.

    Raises:
        ValueError: An axis is neither an identifier nor a positive number.
    """
    return tuple(_axis(word, spec) for word in spec.split())


def _axis(word: str, spec: str) -> Axis:
    if word.isdecimal() and int(word) > 0:
        return int(word)
    if word.isidentifier():
        return word
    raise ValueError(f"'{word}' in the axis string '{spec}' is neither a name nor a positive number")


def show(axes: Sequence[Axis]) -> str:
    """Write axes as an axis string."""
    return " ".join(str(axis) for axis in axes)


def unify(required: Sequence[Axis], actual: Sequence[Axis], bound: dict[str, Axis]) -> str | None:
    """Match required axes with actual ones, and bind the names among the required.

    Args:
        required: Axes of a requirement.
        actual: The actual axes; a name stands for a size that is known only from the data.
        bound: Name -> size or name that it is bound to; extended in place.

    Returns:
        None when they match, else the reason.
    """
    if len(required) != len(actual):
        return f"'{show(required)}' has {len(required)} axes, but the actual row has {len(actual)}: '{show(actual)}'"
    for axis, size in zip(required, actual, strict=True):
        expected = bound.setdefault(axis, size) if isinstance(axis, str) else axis
        if expected != size:
            also = f" (it is {expected} elsewhere in this component)" if isinstance(axis, str) else ""
            return f"axis '{axis}' of '{show(required)}' does not match {size} in '{show(actual)}'{also}"
    return None
