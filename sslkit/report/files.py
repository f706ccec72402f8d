"""The files of an ablation, each of them whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sslkit.ablation.results import Results
from sslkit.report import figure, page, render


def write_all(results: Results, folder: Path) -> list[Path]:
    """Write every file; see `sslkit.report.write`."""
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], str | bytes]] = {
        "table.md": lambda: render.markdown(results),
        "table.tex": lambda: render.latex(results),
        "table.csv": lambda: render.csv_text(results),
        "results.json": lambda: json.dumps(render.json_values(results), indent=2, allow_nan=False) + "\n",
        "figure.png": lambda: figure.png(results),
        "figure.svg": lambda: figure.svg(results),
        "report.html": lambda: page.html(results),
    }
    return [_write(folder / name, make()) for name, make in makers.items()]


def _write(file: Path, content: str | bytes) -> Path:
    aside = file.with_name(f".{file.name}.part")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    return aside.replace(file)
