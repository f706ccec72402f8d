"""Find the state dicts in what a weights file holds, and choose one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sslkit.errors import DataError, closest

_MOST = 10
"""Number of a file's keys or state dicts that an error names."""
_LONGEST = 80
"""Characters of a key that an error shows."""
_DEEPEST = 6
"""Tables inside each other that are searched; a table may hold itself."""

StateDict = dict[str, Tensor]


def choose(content: Any, path: Path, key: str, fit: Callable[[StateDict], str]) -> StateDict:
    """Return the state dict at a key, or without one the only state dict.

    Args:
        content: What the file holds.
        path: The file, for messages.
        key: Dotted where tables are nested: "model.teacher"; "" for the only one.
        fit: Says how well a state dict fits the backbone; "" where that is not known.

    Raises:
        DataError: There is none, none at that key, or without a key several.
    """
    found = _found(content, ())
    if key in found:
        return found[key]
    if not found:
        raise DataError(
            f"{path} holds no state dict: it is {_described(content)}; save the state dict alone: "
            "torch.save(model.state_dict(), ...)"
        )
    if key:
        raise DataError(_unknown(found, path, key, fit))
    if len(found) == 1:
        return next(iter(found.values()))
    if "model" in found and {"recipe", "optimizer"} <= content.keys():  # a checkpoint of sslkit
        return found["model"]
    raise DataError(
        "\n".join([f"{path} holds {len(found)} state dicts: write --key NAME for one of them", *_lines(found, fit)])
    )


def _found(table: Any, keys: tuple[str, ...]) -> dict[str, StateDict]:
    """Return the state dicts in a table by their dotted keys: its own tensors, or those of the tables inside it.

    Tensors beside a larger state dict do not belong to one: a queue, a mean. Nor do those of an optimizer.
    """
    if not isinstance(table, dict) or len(keys) > _DEEPEST or {"state", "param_groups"} <= table.keys():
        return {}
    named = {key: value for key, value in table.items() if isinstance(key, str)}
    own = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    inner: dict[str, StateDict] = {}
    for key, value in named.items():
        inner |= _found(value, (*keys, key))
    larger = len(own) > max((len(tensors) for tensors in inner.values()), default=0)
    return {".".join(keys): own} if larger and any(value.ndim for value in own.values()) else inner


def _unknown(found: Mapping[str, StateDict], path: Path, key: str, fit: Callable[[StateDict], str]) -> str:
    if "" not in found:
        return "\n".join([f"{path} holds no state dict '{_short(key)}'{closest(key, found)}", *_lines(found, fit)])
    below = any(name.startswith(f"{key}.") for name in found[""])
    advice = f"write --prefix {key}. instead" if below else "leave out --key"
    return f"{path} holds one state dict, not several, so none is called '{_short(key)}': {advice}"


def _lines(found: Mapping[str, StateDict], fit: Callable[[StateDict], str]) -> list[str]:
    """Describe the first state dicts, one a line, and count the rest."""
    lines = [
        f"    {_short(name)}: {len(tensors)} tensor{'s' * (len(tensors) != 1)}{fit(tensors)}"
        for name, tensors in list(found.items())[:_MOST]
    ]
    return [*lines, *([f"    ... ({len(found) - _MOST} more)"] if len(found) > _MOST else [])]


def _described(content: Any) -> str:
    """Say what a file holds that has no state dict."""
    kind = type(content).__name__
    if isinstance(content, Tensor):
        return f"one tensor of shape {list(content.shape)}"
    if not isinstance(content, (dict, list, tuple)):
        return f"of type {kind}"
    if not content:
        return f"an empty {kind}"
    if isinstance(content, dict):
        parts, what = [_short(str(key)) for key in content], "with the keys"
    else:
        parts, what = [type(item).__name__ for item in content], f"of {len(content)}:"
    more = f", ... ({len(parts) - _MOST} more)" if len(parts) > _MOST else ""
    return f"a {kind} {what} {', '.join(parts[:_MOST])}{more}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
