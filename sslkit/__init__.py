"""sslkit: a composable plugin framework for self-supervised visual pre-training.

What plugin authors write against lives in `sslkit.api`, `sslkit.boxes`, `sslkit.errors` and `sslkit.testing`.
Importing `sslkit` alone is light: torch comes in with `sslkit.api`.
"""

from pluggy import HookimplMarker

__version__ = "0.1.0"

hookimpl = HookimplMarker("sslkit")
"""Marks a plugin's hook implementations."""

__all__ = ["__version__", "hookimpl"]
