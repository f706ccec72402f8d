"""Weights from elsewhere into a backbone: read without executing anything, and matched key by key."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.errors import DataError
from sslkit.storage import checkpoint

_SHOWN = 8


def read(path: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU: safetensors, or what `torch.save` wrote of tensors and plain values.

    A checkpoint that holds one state dict beside other things, such as {"state_dict": ..., "epoch": ...}, gives that.

    Raises:
        DataError: The file is missing or damaged, would execute code, or holds no or several state dicts.
    """
    if path.suffix == ".safetensors":
        return checkpoint.load_weights(path)[0]
    if not path.is_file():
        raise DataError(f"no weights at {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old files; what matters is said here
            checkpoint.refuse_inflating(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} was not loaded: it holds more than tensors and plain values, and loading it could execute code "
            f"({checkpoint.culprit(error)}). Where you trust it, write its state dict alone: "
            "torch.save(model.state_dict(), ...)"
        ) from None
    except DataError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise DataError(f"{path} cannot be read as weights: {checkpoint.first_line(error)}") from None
    return _state_dict(found, path)


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what a file holds: the whole, or the one table of tensors in it."""
    tables = {"": found, **found} if isinstance(found, dict) else {}
    good = {str(key): _tensors(table) for key, table in tables.items() if _is_state_dict(table)}
    if "" in good:
        return good[""]
    if len(good) == 1:
        return next(iter(good.values()))
    if "model" in good and {"recipe", "optimizer"} <= found.keys():  # a checkpoint of ours
        return good["model"]
    holds = f"the keys {', '.join(map(str, list(found)[:_SHOWN]))}" if isinstance(found, dict) else type(found).__name__
    what = f"several state dicts ({', '.join(good)})" if good else f"no state dict: it has {holds}"
    raise DataError(f"{path} holds {what}; write the one that is meant to a file of its own")


def _is_state_dict(table: Any) -> bool:
    return (
        isinstance(table, dict)
        and any(isinstance(value, Tensor) and value.ndim for value in table.values())
        and all(isinstance(key, str) and not isinstance(value, dict) for key, value in table.items())
    )


def _tensors(table: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in table.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Match:
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
    def of(cls, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Match:
        """Compare keys and shapes."""
        both = [key for key in wanted if key in given]
        shapes = {key: (tuple(given[key].shape), tuple(wanted[key].shape)) for key in both}
        return cls(
            [key for key in both if shapes[key][0] == shapes[key][1]],
            [key for key in wanted if key not in given],
            [key for key in given if key not in wanted],
            {key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
        )

    @property
    def whole(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.misshapen)

    def lines(self) -> list[str]:
        """Name what does not fit, a line for each kind."""
        shapes = [f"{key} ({list(a)} in the file, {list(b)} in the backbone)" for key, (a, b) in self.misshapen.items()]
        kinds = (
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("of another shape", shapes),
        )
        return [f"    {len(keys)} {what}: {_some(keys)}" for what, keys in kinds if keys]


def _some(keys: Iterable[str]) -> str:
    listed = list(keys)
    return ", ".join(listed[:_SHOWN]) + (f", ... ({len(listed) - _SHOWN} more)" if len(listed) > _SHOWN else "")


def load_into(
    backbone: nn.Module, given: Mapping[str, Tensor], origin: str, prefix: str = "", partial: bool = False
) -> str | None:
    """Copy tensors into a backbone.

    Args:
        backbone: Changed in place.
        given: Of a file.
        origin: Names the file, for messages.
        prefix: Keys that begin with it are meant, without it; others are passed over.
        partial: Go on with what matches.

    Returns:
        What was not loaded, in words; None when everything fits.

    Raises:
        DataError: Keys or shapes do not match, all of them listed by kind; or nothing matches at all.
    """
    wanted = backbone.state_dict()
    below = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    match = Match.of(below, wanted)
    said = f"{len(match.matched)} of the backbone's {len(wanted)} tensors are in {origin}"
    if prefix:
        said += f" below '{prefix}'"
    hint = prefix_hint(given, wanted, prefix)
    if not match.whole and (not partial or not match.matched):
        hint = hint or (
            "    write --allow-partial to go on with what matches"
            if match.matched
            else "    is this the right backbone?"
        )
        raise DataError("\n".join([f"the weights do not fit: {said}", *match.lines(), hint]))
    backbone.load_state_dict({key: below[key] for key in match.matched}, strict=False)
    if match.whole:
        return None
    rest = "what is missing or of another shape keeps its random initial values"
    return "\n".join([f"PARTIAL WEIGHTS: {said}; {rest}", *match.lines(), *([hint] if hint else [])])


def prefix_hint(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str = "") -> str:
    """Name the prefix below which most of a backbone's keys are found, when it is another one; else say nothing."""
    heads = Counter(key.removesuffix(name) for key in given for name in _tails(key) if name in wanted)
    if not heads:
        return ""
    best, count = heads.most_common(1)[0]
    if best == prefix or count <= heads.get(prefix, 0):
        return ""
    known = "all keys begin with" if all(key.startswith(best) for key in given) else f"{count} of them are found below"
    return f"    {known} '{best}': write --prefix {best}" if best else "    they are found without a prefix"


def _tails(key: str) -> list[str]:
    """Return a key and what is left of it behind each of its dots."""
    parts = key.split(".")
    return [".".join(parts[place:]) for place in range(len(parts))]
