"""Failures name the plugin's own line, however deep in other code they were raised."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sslkit.contracts.blame import blamed, breach, failure, location
from sslkit.errors import DataError, DivergedError, PluginError, PreemptedError, RecipeError, UsageError
from sslkit.plugins import Component, Owner

FILE = __file__


def decorated(function):
    @functools.wraps(function)
    def inner(*given):
        return function(*given)

    return inner


class Mine:
    """A component."""

    limit = 3

    def torch_fails(self):
        return torch.zeros(2) + torch.zeros(3)

    def numpy_fails(self):
        return np.concatenate([np.zeros(2), np.zeros((2, 2))])

    def callback_fails(self):
        return sorted([1, 2], key=lambda value: self.raises())

    def raises(self):
        raise ValueError("mine")

    @decorated
    def wrapped(self):
        """Stand behind a decorator."""

    @property
    def groups(self):
        return {}

    @functools.cached_property
    def late(self):
        return {}

    @staticmethod
    def plain():
        return 1


COMPONENT = Component("sampler", "mine/corners", Mine, Owner("mine", "sslkit-mine", "2.0"))


def line_of(text):
    lines = Path(FILE).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


def fail(method, *given):
    with pytest.raises(PluginError) as caught, blamed(COMPONENT, method):
        getattr(Mine(), method)(*given)
    return str(caught.value).split("\n    ")


@pytest.mark.parametrize(
    ("method", "text", "deeper"),
    [
        ("torch_fails", "torch.zeros(2) + torch.zeros(3)", False),
        ("numpy_fails", "np.concatenate", False),
        ("callback_fails", 'ValueError("mine")', False),
        ("raises", 'ValueError("mine")', False),
    ],
)
def test_the_plugins_own_line_is_named(method, text, deeper):
    first, *lines = fail(method)
    assert first.startswith("sampler 'mine/corners' of plugin 'mine' (sslkit-mine 2.0) failed: ")
    assert lines[0].startswith(f"{FILE}, line {line_of(text)}, in ")
    assert (len(lines) == 2) == deeper


def test_the_line_that_raised_is_named_beside_it(monkeypatch):
    monkeypatch.setattr(Mine, "torch_fails", lambda self: torch.nn.functional.linear(torch.zeros(2), "weight"))
    monkeypatch.setattr(Mine, "raises", lambda self: torch.nn.Linear(2, 3)("x"))
    _, line, deeper = fail("raises")
    assert line.startswith(f"{FILE}, line {line_of('torch.nn.Linear(2, 3)')}, in ")
    assert re.fullmatch(r"raised in .*torch/nn/modules/linear\.py, line \d+, in forward", deeper)


def test_a_wrong_signature_has_the_methods_line():
    core = "with blamed(component, 'raises'):\n    component.cls().raises('too', 'many')"
    with pytest.raises(PluginError) as caught:
        exec(compile(core, "core.py", "exec"), {"blamed": blamed, "component": COMPONENT})
    first, line, deeper = str(caught.value).split("\n    ")
    assert "TypeError: Mine.raises() takes 1 positional argument but 3 were given" in first
    assert line == f"{FILE}, line {line_of('def raises')}, in raises"
    assert deeper == "raised in core.py, line 2, in <module>"


@pytest.mark.parametrize("package", ["pkg", "pkg.inner.deep"])
def test_every_file_of_the_plugins_package_is_its_own(tmp_path, monkeypatch, package):
    folder = tmp_path.joinpath(*package.split("."))
    folder.mkdir(parents=True)
    for parent in (folder, *folder.parents):
        if parent == tmp_path:
            break
        (parent / "__init__.py").write_text("")
    (tmp_path / "pkg" / "helper.py").write_text("def help():\n    return 1 / 0\n")
    (folder / "part.py").write_text("from pkg.helper import help\nclass Part:\n    def run(self):\n        help()\n")
    monkeypatch.syspath_prepend(tmp_path)
    part = __import__(f"{package}.part", fromlist=["Part"]).Part
    component = Component("source", "pkg/part", part, Owner("pkg", "pkg", "1"))
    with pytest.raises(PluginError) as caught, blamed(component, "run"):
        part().run()
    assert str(caught.value).endswith(f"{tmp_path}/pkg/helper.py, line 2, in help")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pkg"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("raises", "def raises", "raises"), ("groups", "@property", "groups"), ("plain", "@staticmethod", "plain"),
        ("late", "@functools.cached_property", "late"), ("wrapped", "@decorated", "wrapped"),
        ("limit", "class Mine", "Mine"), ("absent", "class Mine", "Mine"),
    ],
)  # fmt: skip
def test_the_line_of_a_method_or_of_its_class(name, text, where):
    assert location(Mine, name) == f"{FILE}, line {line_of(text)}, in {where}"


@pytest.mark.parametrize("error", [UsageError("x"), RecipeError("x"), PreemptedError("x"), DivergedError("x")])
@pytest.mark.parametrize("method", ["read", "key", "label", "objects", "__getitem__", "sample"])
def test_what_is_called_for_each_image_explains_images_alone(error, method):
    with pytest.raises(PluginError, match=f"failed: {type(error).__name__}: x"), blamed(COMPONENT, method):
        raise error
    with pytest.raises(PluginError if method == "sample" else DataError), blamed(COMPONENT, method):
        raise DataError("x")
    with pytest.raises(type(error)), blamed(COMPONENT, "open"):
        raise error


def test_a_class_without_source_has_its_file():
    made = type("Made", (), {"__module__": __name__})
    assert location(made, "absent") == f"{FILE}, in Made"
    assert location(type("Made", (), {"__module__": "nowhere"}), "absent") == "nowhere, in Made"


def test_a_breach_says_what_was_returned_and_where():
    assert str(breach(COMPONENT, "raises", "returned None")) == (
        "sampler 'mine/corners' of plugin 'mine' (sslkit-mine 2.0): raises() returned None\n"
        f"    {FILE}, line {line_of('def raises')}, in raises"
    )
    assert ": groups is None\n" in str(breach(COMPONENT, "groups", "is None"))


DEVICE = type("AcceleratorError", (RuntimeError,), {"__module__": "torch"})
"""torch's own from 2.9 on."""


@pytest.mark.parametrize(
    "error",
    [
        DataError("no image"),
        torch.OutOfMemoryError("CUDA out of memory"),
        DEVICE("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_is_no_plugins_fault_passes(error):
    with pytest.raises(type(error)) as caught, blamed(COMPONENT):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(0), KeyError("a"), RecursionError("deep"), Warning("w"), MemoryError(), MemoryError("one is too large"),
        np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype("f8")), ValueError("the queue is out of memory"),
        OSError(12, "out of memory"), DEVICE("CUDA error: an illegal memory access"),
    ],
)  # fmt: skip
def test_everything_else_is(error):
    with pytest.raises(PluginError), blamed(COMPONENT):
        raise error


def test_a_failure_without_traceback_has_the_methods_line():
    assert failure(COMPONENT, "raises", KeyError("a")).endswith(f"line {line_of('def raises')}, in raises")
