"""sslkit: a composable plugin framework for self-supervised visual pre-training.

    import sslkit

    recipe = sslkit.load("quickstart", set={"epochs": 1})
    plan = sslkit.plan(recipe)
    result = sslkit.train(plan)
    network = sslkit.backbone(result.folder)

Importing `sslkit` is light: torch is imported when a function first needs it. What plugin authors write against is in
`sslkit.api`, `sslkit.boxes`, `sslkit.errors`, `sslkit.testing` and the other modules beside them.
"""

from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

if TYPE_CHECKING:
    from sslkit.facade import ablate, backbone, cost, load, objective, plan, probe, train

__version__ = "0.1.0"

hookimpl = HookimplMarker("sslkit")
"""Mark a plugin's hook implementations."""

__all__ = ["__version__", "ablate", "backbone", "cost", "hookimpl", "load", "objective", "plan", "probe", "train"]


def __getattr__(name: str) -> Any:
    """Import a function of the Python interface when it is first used."""
    if name in __all__:
        from sslkit import facade

        return getattr(facade, name)
    raise AttributeError(f"module 'sslkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
