"""Axis strings, the language of contracts: "b v d", "b 4", "3 h w".

An axis is a name or a number. Numbers must agree; a name binds to what it meets first and keeps that meaning
within one component (`b`, the batch, means the same everywhere).
"""

from __future__ import annotations

from collections.abc import Sequence

Axis = str | int


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


def unify(wanted: Sequence[Axis], given: Sequence[Axis], bound: dict[str, Axis]) -> str | None:
    """Match what is wanted with what is given; bind names on the way.

    Args:
        wanted: Axes of the requirement.
        given: Axes of what is there; a name here is a size that only the data will tell.
        bound: What the names of the requirement mean so far; extended in place.

    Returns:
        None when they agree, else the reason in words.
    """
    if len(wanted) != len(given):
        return f"'{show(wanted)}' has {len(wanted)} axes, but what is given has {len(given)}: '{show(given)}'"
    for want, have in zip(wanted, given, strict=True):
        meant = bound.setdefault(want, have) if isinstance(want, str) else want
        if meant != have:
            also = f" (it is {meant} elsewhere in this component)" if isinstance(want, str) else ""
            return f"axis '{want}' of '{show(wanted)}' meets {have} in '{show(given)}'{also}"
    return None
