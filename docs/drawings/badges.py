"""Draw the README's badges: `python docs/drawings/badges.py` writes them into docs/figures, from pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "docs" / "figures"
FONT = "11px -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
WIDTHS = {"python": (52, 52), "licence": (52, 76)}
"""Widths of both halves of a badge, in pixels."""


def draw() -> dict[str, str]:
    """Return the text of every badge, by file name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    texts = {"python": ("Python", f"≥ {oldest}"), "licence": ("licence", project["license"])}
    return {f"badge-{name}.svg": _badge(*text, *WIDTHS[name]) for name, text in texts.items()}


def _badge(label: str, value: str, left: int, right: int) -> str:
    """Draw a label on grey beside a value on blue: both white text, so that it suits light and dark pages."""
    width = left + right
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" viewBox="0 0 {width} 20" role="img" '
        f'aria-label="{label}: {value}">\n'
        f'<clipPath id="round"><rect width="{width}" height="20" rx="4"/></clipPath>\n'
        f'<g clip-path="url(#round)"><rect width="{left}" height="20" fill="#57606a"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="#0969da"/></g>\n'
        f'<g fill="#fff" text-anchor="middle" style="font: {FONT}"><text x="{left / 2:g}" y="14">{label}</text>'
        f'<text x="{left + right / 2:g}" y="14">{value}</text></g>\n</svg>\n'
    )


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name, text in draw().items():
        (OUT / name).write_text(text)
