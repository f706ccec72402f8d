"""Write all files of an ablation's report, each completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sslkit.ablation.results import Results
from sslkit.files import replace_file
from sslkit.report import figure, page, render


def write_all(results: Results, folder: Path) -> list[Path]:
    """Write all files; see `sslkit.report.write`."""
    contents: dict[str, Callable[[], str | bytes]] = {
        "table.md": lambda: render.to_markdown(results),
        "table.tex": lambda: render.to_latex(results),
        "table.csv": lambda: render.to_csv(results),
        "results.json": lambda: json.dumps(render.to_json(results), indent=2, allow_nan=False) + "\n",
        "figure.png": lambda: figure.to_png(results),
        "figure.svg": lambda: figure.to_svg(results),
        "report.html": lambda: page.to_html(results),
    }
    return [_write(folder / name, make()) for name, make in contents.items()]


def _write(file: Path, content: str | bytes) -> Path:
    with replace_file(file) as part:
        part.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return file
