"""Types of command line arguments."""

from __future__ import annotations

import argparse
from pathlib import Path


def count(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def study(text: str) -> tuple[str, Path]:
    """Return the name of a study and the folder of its results, from NAME=FOLDER."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=RESULTS, such as UniVIP=tables/univip")
    if not (Path(folder) / "results.json").is_file():
        raise argparse.ArgumentTypeError(f"{folder} has no results.json: write the folder of `sslkit ablate --out`")
    return name, Path(folder)
