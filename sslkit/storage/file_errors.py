"""Describe errors from reading and writing files."""

from __future__ import annotations

import re
from pathlib import Path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def refused_name(error: Exception) -> str:
    """Return what `torch.load` refused to execute, without its advice on how to execute it after all."""
    match = re.search(r"GLOBAL (\S+)", str(error))
    return match[1] if match else first_line(error)


def truncation_hint(path: Path, advice: str) -> str:
    """Return the size of a damaged file, and what to do about it."""
    return f"it holds {path.stat().st_size} bytes and may have been cut short; {advice}"
