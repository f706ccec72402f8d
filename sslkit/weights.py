"""Load the tensors of a file into a backbone, matched key by key."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sslkit.errors import DataError

_MOST_KEYS = 8
"""Number of keys of one kind that a message names."""


@dataclass(frozen=True)
class KeyMatch:
    """How the tensors of a file fit those of a backbone.

    Attributes:
        matched: Keys that both have, of the same shape.
        missing: Keys that only the backbone has.
        unexpected: Keys that only the file has.
        misshapen: Keys that both have -> shape in the file, shape in the backbone.
    """

    matched: Sequence[str]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> KeyMatch:
        """Compare the keys and shapes of a file's tensors with those that a backbone expects."""
        both = [key for key in expected if key in tensors]
        shapes = {key: (tuple(tensors[key].shape), tuple(expected[key].shape)) for key in both}
        return cls(
            [key for key in both if shapes[key][0] == shapes[key][1]],
            [key for key in expected if key not in tensors],
            [key for key in tensors if key not in expected],
            {key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
        )

    @property
    def complete(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.misshapen)

    def lines(self) -> list[str]:
        """Name the keys that do not fit, one line for each kind."""
        shapes = [f"{key} ({list(a)} in the file, {list(b)} in the backbone)" for key, (a, b) in self.misshapen.items()]
        kinds = (
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("of another shape", shapes),
        )
        return [f"    {len(keys)} {kind}: {_first_few(keys)}" for kind, keys in kinds if keys]


def _first_few(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f", ... ({len(keys) - _MOST_KEYS} more)" if len(keys) > _MOST_KEYS else ""
    return ", ".join(keys[:_MOST_KEYS]) + more


def load_into(
    backbone: nn.Module, tensors: Mapping[str, Tensor], origin: str, prefix: str = "", partial: bool = False
) -> str | None:
    """Copy the tensors of a file into a backbone.

    Args:
        backbone: The backbone, changed in place.
        tensors: All tensors of the file.
        origin: Name of the file, for messages.
        prefix: Use only the keys with this prefix, and remove it.
        partial: Continue with what matches.

    Returns:
        A description of what was not loaded; None when everything fits.

    Raises:
        DataError: Keys or shapes do not match (the message lists them by kind), nothing matches at all, or the values
            of a tensor cannot be copied: it is sparse, quantised or on the meta device.
    """
    expected = backbone.state_dict()
    selected = _under(prefix, tensors)
    match = KeyMatch.of(selected, expected)
    _refuse_unusual(selected, expected, match.matched, origin)
    summary = f"{len(match.matched)} of the backbone's {len(expected)} tensors are in {origin}"
    if prefix:
        summary += f" under '{prefix}'"
    if not match.complete and _loads_strictly(backbone, selected):
        backbone.load_state_dict(selected)
        return None
    hint = prefix_hint(tensors, expected, prefix)
    if not match.complete and (not partial or not match.matched):
        hint = hint or (
            "    write --allow-partial to continue with what matches"
            if match.matched
            else "    is this the right backbone?"
        )
        raise DataError("\n".join([f"the weights do not fit: {summary}", *match.lines(), hint]))
    backbone.load_state_dict({key: selected[key] for key in match.matched}, strict=False)
    if match.complete:
        return None
    rest = "tensors that are missing or of another shape keep their random initial values"
    return "\n".join([f"PARTIAL WEIGHTS: {summary}; {rest}", *match.lines(), *([hint] if hint else [])])


def _refuse_unusual(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], keys: Iterable[str], origin: str
) -> None:
    """Refuse tensors whose values cannot be copied into those of a backbone."""
    wrong = [f"{key} is {kind}" for key in keys if (kind := _unusual(tensors[key], expected[key]))]
    if wrong:
        summary = f"{len(wrong)} of the backbone's {len(expected)} tensors cannot be copied from {origin}:"
        advice = "save them as plain tensors: dense, not quantised, with their values"
        raise DataError("\n    ".join([summary, *_first_ten(wrong), advice]))


def _first_ten(lines: Sequence[str]) -> list[str]:
    return [*lines[:10], *([f"... ({len(lines) - 10} more)"] if len(lines) > 10 else [])]


def _unusual(tensor: Tensor, wanted: Tensor) -> str:
    """Say why the values of a tensor cannot be copied; return "" if they can."""
    if tensor.is_meta:
        return "on the meta device: it has a shape and no values"
    if tensor.is_quantized:
        return f"quantised ({_name(tensor.dtype)})"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"not dense ({'nested' if tensor.is_nested else _name(tensor.layout)})"
    try:
        torch.empty((), dtype=wanted.dtype).copy_(torch.empty((), dtype=tensor.dtype))
    except RuntimeError:  # NotImplementedError too: numbers of a few bits
        return f"of type {_name(tensor.dtype)}, which torch cannot convert to {_name(wanted.dtype)}"
    return ""


def _name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


def _loads_strictly(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether torch takes all tensors and misses none, as with those that older versions of it wrote."""
    try:
        copy.deepcopy(backbone).load_state_dict(dict(tensors))
    except RuntimeError:
        return False
    return True


def prefix_hint(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str = "") -> str:
    """Name the prefix under which most of a backbone's keys are found; return "" when `prefix` is already the best."""
    counts = _prefixes(tensors, expected)
    if not counts:
        return ""
    best, count = counts.most_common(1)[0]
    if best == prefix or count <= counts.get(prefix, 0):
        return ""
    if not best:
        return "    they are found without a prefix"
    every = all(key.startswith(best) for key in tensors)
    reason = "all keys begin with" if every else f"{count} of them are found under"
    return f"    {reason} '{best}': write --prefix {best}"


def describe_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str = "") -> str:
    """Say how many tensors fit a backbone under a prefix; without one, under that of most of the backbone's keys."""
    counts = _prefixes(tensors, expected)
    best = prefix or (counts.most_common(1)[0][0] if counts else "")
    matched = KeyMatch.of(_under(best, tensors), expected).matched
    return f"of which {len(matched)} fit the backbone's {len(expected)}" + (f" under '{best}'" if best else "")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _prefixes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Counter[str]:
    """Count the backbone's keys that are found under each prefix."""
    return Counter(key.removesuffix(tail) for key in tensors for tail in _tails(key) if tail in expected)


def _tails(key: str) -> list[str]:
    """Return a key and the parts of it after each of its dots."""
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
