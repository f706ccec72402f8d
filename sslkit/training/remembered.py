"""Remember the outcomes of trials per machine, in one file of the cache folder.

A file that is damaged or cannot be written is done without: the trial is then made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sslkit.files import load_cache, save_cache
from sslkit.folders import cache_dir, cores
from sslkit.planning.plan import Plan
from sslkit.storage.environment import cpu_model
from sslkit.training.trial import PLAIN, Mode, Outcome

FILE = "precision.json"
"""The file in the cache folder: digest of a machine and its work -> that key, and the outcome."""
MOST_ENTRIES = 500
_THIS_PROCESS: dict[str, Outcome] = {}
"""The outcomes of this process, for a cache folder that cannot be written."""


def machine_and_work(plan: Plan, modes: Sequence[Mode]) -> dict[str, Any]:
    """Return what a trial's outcome depends on.

    Options of objectives and of the optimizer are left out: runs that differ in them alone compute alike.
    """
    recipe = plan.recipe
    return {
        "cpu": cpu_model(), "cores": cores(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "modes": [str(mode) for mode in modes],
        "backbone": [plan.backbone.table(), plan.backbone.component.owner.version],
        "heads": {name: [head.in_dim, head.dim, head.out_dim, head.predicts] for name, head in plan.heads.items()},
        "objectives": [item.objective.component.id for item in plan.objectives],
        "views": {".".join(key): [view.size for view in views] for key, views in plan.views.items()},
        "batch_norm": {group: recipe.forward.norm_of(group) for group in plan.groups},
        "batch_size": recipe.batch_size, "accumulate": recipe.accumulate, "optimizer": recipe.optimizer.use,
    }  # fmt: skip


def digest(key: Mapping[str, Any]) -> str:
    """Return a hash of a key."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def recall(key: Mapping[str, Any]) -> Outcome | None:
    """Return the outcome of an earlier trial with this key; None if there is none."""
    name = digest(key)
    if name in _THIS_PROCESS:
        return _THIS_PROCESS[name]
    entry = _read().get(name)
    return _outcome(entry) if isinstance(entry, dict) else None


def remember(key: Mapping[str, Any], outcome: Outcome) -> None:
    """Write an outcome into the file, and drop the oldest ones if there are too many."""
    name = digest(key)
    _THIS_PROCESS[name] = outcome
    entries = {other: entry for other, entry in _read().items() if other != name}
    modes = [[mode.precision, mode.memory_format, seconds] for mode, seconds in outcome.seconds.items()]
    entries[name] = {"key": key, "choice": str(outcome.choice), "seconds": modes, "images": outcome.images}
    newest = dict(list(entries.items())[-MOST_ENTRIES:])
    text = json.dumps(newest, indent=1, default=str) + "\n"
    save_cache(_file(), "the choice of a precision", lambda file: file.write(text.encode()))


def _file() -> Path:
    return cache_dir() / FILE


def _read() -> dict[str, Any]:
    entries = load_cache(_file(), "the choice of a precision", lambda file: json.loads(file.read()))
    return entries if isinstance(entries, dict) else {}


def _outcome(entry: Mapping[str, Any]) -> Outcome | None:
    """Return the outcome of an entry; None if the entry is damaged."""
    try:
        seconds = {Mode(precision, memory): float(value) for precision, memory, value in entry["seconds"]}
        return Outcome(seconds, int(entry["images"])) if PLAIN in seconds else None
    except (KeyError, TypeError, ValueError):
        return None
