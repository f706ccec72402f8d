"""Where code is: the files and lines of what failed, and of classes and their methods."""

from __future__ import annotations

import inspect
import sys
import traceback
from functools import cached_property
from types import CodeType
from typing import Any


def place_of(error: BaseException) -> str:
    """Return the file, line and function that an exception was raised in."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else "(no line is known)"


def location(cls: type[Any], name: str) -> str:
    """Return the file and line of a method or property of a class; those of the class if it has none."""
    code = code_of(inspect.getattr_static(cls, name, None))
    if code is not None:
        return f"{code.co_filename}, line {code.co_firstlineno}, in {code.co_name}"
    try:
        return f"{inspect.getsourcefile(cls)}, line {inspect.getsourcelines(cls)[1]}, in {cls.__qualname__}"
    except (OSError, TypeError):  # a class that was not written as one
        return f"{getattr(sys.modules.get(cls.__module__), '__file__', cls.__module__)}, in {cls.__qualname__}"


def code_of(attribute: Any) -> CodeType | None:
    """Return the code of a method, behind decorators."""
    if isinstance(attribute, (staticmethod, classmethod)):
        attribute = attribute.__func__
    elif isinstance(attribute, property):
        attribute = attribute.fget
    elif isinstance(attribute, cached_property):
        attribute = attribute.func
    if not callable(attribute):
        return None
    code = getattr(inspect.unwrap(attribute), "__code__", None)
    return code if isinstance(code, CodeType) else None
