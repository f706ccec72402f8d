"""Name the component, its plugin and the plugin's own line when a component fails or breaks its contract."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from sslkit.errors import DataError, PluginError, SslkitError, is_out_of_memory
from sslkit.foreign.isolation import describe, is_failure
from sslkit.foreign.places import code_of, location, place_of
from sslkit.plugins import Component

_OF_ONE_IMAGE: Mapping[str, tuple[type[SslkitError], ...]] = {
    **dict.fromkeys(("key", "read", "objects", "label", "__getitem__"), (DataError,)), "sample": (),
}  # fmt: skip
"""Method that is called for each image -> sslkit's errors that explain an image; any other is the plugin's failure."""


class blamed:  # noqa: N801 - used as a function; a class is faster than a generator, and this runs for every image
    """Name the component, its plugin and the plugin's line when the code inside a `with` block fails.

    Args:
        component: The component whose code the block calls.
        method: The method that the block calls, for failures without a line of the plugin, such as a wrong signature.
        of: The class of the called object, if it is not the component's own: a proposer's proposals.

    Raises:
        PluginError: Anything was raised other than sslkit's errors, and torch's of too little memory. Of sslkit's
            errors, methods that are called for each image raise none but DataError, and samplers none.
    """

    __slots__ = ("component", "method", "of")

    def __init__(self, component: Component, method: str = "", of: type[Any] | None = None) -> None:
        self.component, self.method, self.of = component, method, of

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Raise the error as the plugin's."""
        if error is None or not is_failure(error) or is_out_of_memory(error):
            return
        if isinstance(error, _OF_ONE_IMAGE.get(self.method, SslkitError)):
            return
        raise PluginError(failure(self.component, self.method, error, self.of)) from error


def words(error: BaseException) -> str:
    """Return the message of one of sslkit's errors; of any other, its type and its message, which may be empty."""
    return str(error) if isinstance(error, SslkitError) else describe(error)


def breach(component: Component, method: str, what: str, of: type[Any] | None = None) -> PluginError:
    """Return the error of a component that returns or declares what its contract does not allow.

    Args:
        component: The component.
        method: The method that returned it, or the attribute that holds it.
        what: What is wrong with the actual value, and what to return instead.
        of: The class of the method, if it is not the component's own: a proposer's proposals.
    """
    line = location(of or component.cls, method)
    return PluginError(_message(component, f": {method}{_brackets(of or component.cls, method)} {what}", [line]))


def failure(component: Component, method: str, error: BaseException, of: type[Any] | None = None) -> str:
    """Return the message of a component that failed; arguments as in `breach`."""
    lines = _lines_of_failure(error, of or component.cls, method)
    return _message(component, f" failed: {describe(error)}", lines)


def _message(component: Component, what: str, lines: list[str]) -> str:
    return "\n    ".join([f"{component.kind} '{component.id}' of {component.owner}{what}", *lines])


def _brackets(cls: type[Any], method: str) -> str:
    return "()" if inspect.isroutine(inspect.getattr_static(cls, method, None)) else ""


def _lines_of_failure(error: BaseException, cls: type[Any], method: str) -> list[str]:
    """Return the deepest line that is the plugin's own and, where that is another one, the line that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return [location(cls, method)]
    deepest, line = place_of(error), own_line(error, cls, method)
    if not line:
        return [location(cls, method), f"raised in {deepest}"] if method else [deepest]
    return [line] if line == deepest else [line, f"raised in {deepest}"]


def own_line(error: BaseException, cls: type[Any], method: str = "") -> str:
    """Return the deepest line of a traceback in the files of a class's plugin; "" if there is none."""
    homes = _homes(cls, method)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.realpath(frame.filename).startswith(homes)]
    return f"{own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}" if own else ""


def _homes(cls: type[Any], method: str) -> tuple[str, ...]:
    """Return what the paths of a plugin's own files begin with: its package, or its one file."""
    parts = cls.__module__.split(".")
    modules = [sys.modules.get(".".join(parts[: count + 1])) for count in range(len(parts))]
    files = [file for module in modules if (file := getattr(module, "__file__", None))]
    code = code_of(inspect.getattr_static(cls, method, None)) if method else None
    package = [_home(os.path.realpath(file)) for file in files[:1]]
    return (*package, *([os.path.realpath(code.co_filename)] if code else []))


def _home(file: str) -> str:
    """Return the folder of a package, with a separator at its end, or a module's file itself."""
    return file.removesuffix("__init__.py") if file.endswith(f"{os.sep}__init__.py") else file
