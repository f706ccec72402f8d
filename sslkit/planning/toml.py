"""Write, flatten and compare nested tables of TOML values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sslkit.errors import UsageError


def dumps(values: Mapping[str, Any]) -> str:
    """Write nested tables as TOML."""
    import tomlkit  # 30 ms, and only needed for writing

    return tomlkit.dumps(values)


def written(value: Any) -> str:
    """Write one value as TOML."""
    import tomlkit

    text: str = tomlkit.item(value).as_string()
    return text


def inline(value: Any) -> str:
    """Write a value on one line, nested tables too: `{ use = "mlp", out = 256 }`."""
    if isinstance(value, Mapping):
        items = ", ".join(f"{_key(str(key))} = {inline(item)}" for key, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inline, value))}]"
    return written(value if isinstance(value, (bool, int, float, str)) else str(value))


def _key(name: str) -> str:
    """Write a key, in quotes where TOML needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else written(name)


def plain(value: Any, key: str) -> Any:
    """Return a Python value as TOML has it: lists for tuples, strings for paths, and Python's numbers for NumPy's.

    Args:
        value: Any value, tables and lists too.
        key: Its dotted key, for messages.

    Raises:
        UsageError: TOML has no such value.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, key) for item in value]
    if isinstance(value, Path):
        return str(value)
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, (bool, int, float, str)):
        return value
    raise UsageError(f"{key} = {value!r}: a recipe has no such value; write a number, a string, a list or a table")


def flatten(values: Any, key: str = "") -> dict[str, Any]:
    """Return dotted key -> value; elements of lists of tables are numbered: `augment.scene.0.flip`."""
    if isinstance(values, Mapping):
        items: Any = values.items()
    elif isinstance(values, list) and values and all(isinstance(value, Mapping) for value in values):
        items = enumerate(values)
    else:
        return {key: values}
    return {name: item for part, value in items for name, item in flatten(value, _join(key, str(part))).items()}


def _join(key: str, part: str) -> str:
    return f"{key}.{part}" if key else part


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) where two tables differ; None stands for a missing key."""
    before, after = flatten(old), flatten(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield key, before.get(key), after.get(key)
