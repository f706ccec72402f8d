"""What an ablation prints and writes: tables, a figure and a page, all made of plain results."""

from __future__ import annotations

from pathlib import Path

from sslkit.ablation.results import Results


def print_results(results: Results) -> None:
    """Print the tables on stdout, with what is missing and why below them."""
    from sslkit.report.terminal import show

    show(results)


def write(results: Results, folder: Path | str) -> list[Path]:
    """Write `table.md`, `table.tex`, `table.csv`, `results.json`, `figure.png`, `figure.svg` and `report.html`.

    Args:
        results: Of an ablation, finished or not.
        folder: Made where it is missing; each file appears whole or not at all.

    Returns:
        The files, in this order.
    """
    from sslkit.report.files import write_all

    return write_all(results, Path(folder))
