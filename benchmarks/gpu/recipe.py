"""The rehearsal's recipe, and plans of it."""

from __future__ import annotations

from pathlib import Path

from speed.plans import planned

from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.plugins import Plugins

FILE = Path(__file__).with_name("univip_small.toml")
PLAIN_VIEWS = tuple(
    f"augment.{group}.{view}.{operation}=0.0"
    for group in ("scene", "instance")
    for view in (0, 1)
    for operation in ("jitter", "grayscale", "solarize")
)
"""Changes without which a GPU's augmentation, which computes on floats, would round unlike the CPU's, on bytes."""
GENTLE = ("optimizer.use=sgd", "optimizer.base_lr=0.1", "optimizer.momentum=0.0", "optimizer.warmup_epochs=0")
"""AdamW divides gradients by their own size: where they are zero but for rounding, it would compare rounding errors."""


def plan_of(*sets: str, plugins: Plugins | None = None) -> tuple[Plan, RecipeFile]:
    """Return the plan of the recipe with changes, without probes."""
    return planned(FILE.read_text(), "probes={}", *sets, plugins=plugins)
