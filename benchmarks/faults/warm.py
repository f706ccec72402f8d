"""Load the modules that processes of `apart` share, so that each process starts at once."""

from __future__ import annotations

import importlib
from functools import cache

MODULES = (
    "matplotlib.pyplot", "lightning_fabric", "sslkit.__main__", "sslkit.cli", "sslkit.targets", "sslkit.probes.measure",
    "sslkit.cli.show.runs", "sslkit.data.scan", "sslkit.training.trainer", "sslkit.planning.planner",
)  # fmt: skip


@cache
def up() -> None:
    """Import what commands import, and the plugins' components, once."""
    for module in MODULES:
        importlib.import_module(module)
    import matplotlib
    import torch

    from sslkit.plugins import Plugins

    for asked in (matplotlib.get_configdir, matplotlib.get_cachedir):  # both create a folder, once
        asked()
    torch.set_num_threads(1)
    dict(Plugins.load().components)
