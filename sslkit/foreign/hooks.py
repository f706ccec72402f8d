"""What is wrong with the hooks that a plugin's module implements."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pluggy

from sslkit.errors import closest

_NEVER_RUN = (
    (inspect.iscoroutinefunction, "async def"),
    (inspect.isasyncgenfunction, "async def with yield"),
    (inspect.isgeneratorfunction, "a function with yield"),
)
"""Functions whose body a call does not run."""


def hook_faults(manager: pluggy.PluginManager, module: object, specs: object) -> Iterator[str]:
    """Yield what is wrong with the hooks of a module.

    Args:
        manager: The manager that the module will be registered with.
        module: The plugin's module.
        specs: The module that specifies all hooks.
    """
    hooks = [name for name in dir(specs) if name.startswith("sslkit_")]
    for name in dir(module):
        options: Any = manager.parse_hookimpl_opts(module, name)
        if options is None and name in hooks:
            yield f"it defines {name}() without the decorator @sslkit.hookimpl, so it is never called"
        elif options is not None and name not in hooks:
            yield f"it implements '{name}', which is not a hook of sslkit{closest(name, hooks)}"
        elif options is not None and (fault := _fault(getattr(module, name), options, getattr(specs, name))):
            yield f"its {name}() {fault}"


def _fault(function: Any, options: Any, spec: Any) -> str | None:
    """Return why a hook would not run, or not as written."""
    if options.get("hookwrapper") or options.get("wrapper"):
        return "is a wrapper of hooks, which sslkit does not call: write @hookimpl alone, and no yield"
    for is_one, what in _NEVER_RUN:
        if is_one(inspect.unwrap(function)):
            return f"is {what}, which would never run: write a plain function"
    given, parameters = inspect.signature(spec).parameters, inspect.signature(function).parameters
    kept = [name for name, item in parameters.items() if name in given and item.default is not item.empty]
    if kept:
        return f"has a default for {', '.join(kept)}, which it would always get: leave the default out"
    return None
