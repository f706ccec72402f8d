"""Report an ablation from its results: tables in the terminal, and files with tables, a figure and an HTML page.

`table` lays out the table once for all formats: `terminal` prints it, `render` writes it as Markdown, LaTeX, CSV and
JSON, and `page` puts it into an HTML page. `figure` draws the metrics with matplotlib, `curves` reads and thins the
training logs, and `panels` plots them as small SVGs. `numbers` formats numbers, `markup` builds HTML, and `files`
writes everything.
"""

from __future__ import annotations

from pathlib import Path

from sslkit.ablation.results import Results


def print_results(results: Results) -> None:
    """Print the tables on stdout, and below them which runs are missing and why."""
    from sslkit.report.terminal import print_table

    print_table(results)


def write(results: Results, folder: Path | str) -> list[Path]:
    """Write `table.md`, `table.tex`, `table.csv`, `results.json`, `figure.png`, `figure.svg` and `report.html`.

    Args:
        results: Results of an ablation, finished or not.
        folder: Folder to write to; created if it is missing. Each file is written completely or not at all.

    Returns:
        The files, in this order.
    """
    from sslkit.report.files import write_all

    return write_all(results, Path(folder))
