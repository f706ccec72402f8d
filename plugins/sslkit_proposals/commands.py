"""The commands `sslkit proposals ...`."""

from __future__ import annotations

import typer


def add(app: typer.Typer) -> None:
    """Add the commands to the plugin's own `app`."""
