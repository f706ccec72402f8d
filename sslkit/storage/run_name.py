"""The name of a run's folder, which is always inside the folder of all runs."""

from __future__ import annotations

import os
import re
from pathlib import PurePath

from sslkit.errors import UsageError

_SEPARATORS = frozenset("/\\\0")
_LONGEST_NAME, _LONGEST_ARM = 255, 200
"""Bytes of a folder's name that file systems allow, and what a message recommends for an arm."""


def run_name(recipe: str, arm: str, seed: int) -> PurePath:
    """Return the folder of a recipe's arm and seed: RECIPE/ARM-sSEED.

    Raises:
        UsageError: `arm` or `recipe` is not the name of a folder.
    """
    name = f"{arm}-s{seed}"
    if not arm or set(arm) & _SEPARATORS:
        instead = re.sub(r"[/\\\0]+", "-", arm).strip("-.") or "full"
        raise UsageError(f"arm {arm!r} is not a folder's name: write one without / and \\, such as --arm {instead}")
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise UsageError(f"arm '{arm[:40]}...' is too long for a folder's name: write at most {_LONGEST_ARM} letters")
    if recipe in (".", ".."):
        raise UsageError(f"a recipe called '{recipe}' cannot name a folder of runs: rename its file")
    return PurePath(recipe) / name
