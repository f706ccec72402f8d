"""Checks of every component: its name, its documentation, its constructor."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from pydantic import BaseModel

from sslkit.foreign.signatures import option_faults, schema
from sslkit.planning.options import validate
from sslkit.testing.case import Case

_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_WIRING = {"objective": ["dims"], "head": ["dims"]}


def check_name(case: Case) -> None:
    """The component has a kebab-case name."""
    name = getattr(case.cls, "name", None)
    assert isinstance(name, str) and _KEBAB.fullmatch(name), (  # noqa: PT018 - one fault, one message
        f"name = {name!r}: write a kebab-case name, such as name = 'my-{case.kind}'"
    )


def check_is_concrete(case: Case) -> None:
    """The class defines every abstract method."""
    missing = sorted(getattr(case.cls, "__abstractmethods__", ()))
    assert not missing, f"{case.cls.__name__} does not define {', '.join(missing)}: add the method"


def check_documentation(case: Case) -> None:
    """The class has a docstring, and it mentions every option."""
    text = case.cls.__dict__.get("__doc__") or ""
    assert text.strip(), f"{case.cls.__name__} has no docstring: write one; listings show its first line"
    missing = [name for name in _schema(case).model_fields if not re.search(rf"\b{re.escape(name)}\b", text)]
    assert not missing, f"the docstring does not mention the options {', '.join(missing)}: describe them under 'Args:'"


def check_signature(case: Case) -> None:
    """The parameters left of `*` are those that the core passes; there are no *args or **kwargs."""
    parameters = list(inspect.signature(case.cls.__init__).parameters.values())[1:]
    loose = [str(p) for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if case.cls.__init__ is object.__init__:
        loose, parameters = [], []
    assert not loose, f"__init__ takes {', '.join(loose)}, which would hide a misspelt option: name every option"
    left = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    wiring = _WIRING.get(case.kind, [])
    assert left == wiring, f"__init__ takes {left} left of '*', but the core passes {wiring}: move options right of it"


def check_options(case: Case) -> None:
    """Every option has a type that a recipe can express, and a default of that type."""
    model = _schema(case)
    defaults = {
        name: option.default
        for name, option in model.model_fields.items()
        if not option.is_required() and option.default is not None
    }
    _, problems = validate(model, {**defaults, **case.options}, ())
    assert not problems, "sslkit check would refuse its options: " + "; ".join(item.what for item in problems)


def check_made_on_meta(case: Case) -> None:
    """The component can be built on torch's meta device, as `sslkit check` does, with every tensor there."""
    with torch.device("meta"):
        component = case.make()
    if isinstance(component, torch.nn.Module):
        real = [name for name, value in component.state_dict().items() if not value.is_meta]
        assert not real, f"{', '.join(real)} are not on the meta device, torch's default: create them without a device"


def check_made_alike(case: Case) -> None:
    """The same seed gives the same weights and buffers."""
    first, second = case.make(seed=5), case.make(seed=5)
    if isinstance(first, torch.nn.Module):
        pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
        differ = [name for (name, a), b in pairs if not torch.equal(a, b)]
        assert not differ, (
            f"{', '.join(differ)} differ between two instances after torch.manual_seed(5): draw from torch's generator"
        )


def _schema(case: Case) -> type[BaseModel]:
    cls: Any = case.cls
    faults = option_faults(case.kind, cls)
    assert not faults, "; ".join(faults)
    return schema(cls)


COMMON = (
    check_name,
    check_is_concrete,
    check_documentation,
    check_signature,
    check_options,
    check_made_on_meta,
    check_made_alike,
)
