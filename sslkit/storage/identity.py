"""What determines a run's numbers in its resolved recipe, and whether two recipes agree in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sslkit.planning import toml

_NOT_COMPARED = (
    "plugins", "summary", "auto_precision", "auto_memory_format", "on_bad_image", "max_bad_images", "max_bad_share",
)  # fmt: skip
"""Parts of a recipe that change no numbers: texts, what a run adds itself, and when to give up on bad images."""


def differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Describe each difference between two recipes that changes a run's numbers."""
    compared = toml.differences(_compared(own), _compared(other))
    return [f"{key}: {_shown(a)} -> {_shown(b)}" for key, a, b in compared]


def digest(resolved: Mapping[str, Any]) -> str:
    """Return a hash (16 hex digits) of what determines a run's numbers: equal runs have equal digests."""
    text = json.dumps(_compared(resolved), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _compared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a recipe that determine a run's numbers; `every` says only when a probe measures.

    Runs from before there was a schedule of the target momentum had a cosine and did not say so.
    """
    compared = {key: value for key, value in values.items() if key not in _NOT_COMPARED}
    if "probes" in compared:
        probes = compared["probes"].items()
        compared["probes"] = {name: {key: table[key] for key in table if key != "every"} for name, table in probes}
    if compared.get("target", {}).get("schedule") == "cosine":
        compared["target"] = {key: value for key, value in compared["target"].items() if key != "schedule"}
    return compared


def _shown(value: Any) -> str:
    return "(absent)" if value is None else json.dumps(value)
