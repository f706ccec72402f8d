"""Components whose state cannot be saved, or not be restored by a run that resumes; more entries of `zoo.ZOO`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.conftest import Alike, Linear, Tiny
from tests.sslkit.contracts.zoo import fails, gives

BASES: dict[str, type[Any]] = {"backbone": Tiny, "head": Linear, "objective": Alike}


def building(kind: str, *buffers: tuple[str, Any]) -> Callable[..., Any]:
    """Return a constructor that also registers buffers."""

    def init(self: Any, *wiring: Any) -> None:
        BASES[kind].__init__(self, *wiring)
        for name, value in buffers:
            self.register_buffer(name, value)

    return init


def changing(kind: str, change: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a forward that first changes its component."""

    def forward(self: Any, *given: Any, **named: Any) -> Any:
        change(self)
        return BASES[kind].forward(self, *given, **named)

    return forward


def after(change: Callable[[Any, int], Any]) -> Callable[..., Any]:
    return lambda self, step, epoch: change(self, step)


def add(self: Any, *step: int) -> None:
    if "queue" not in self._buffers:
        self.register_buffer("queue", torch.zeros(4, 2))


def add_parameter(self: Any, *step: int) -> None:
    self.scale = torch.nn.Parameter(torch.ones(3))


def add_module(self: Any, *step: int) -> None:
    self.extra = torch.nn.Linear(2, 2)


def add_many(self: Any, *step: int) -> None:
    for number in range(13):
        self.register_buffer(f"queue{number}", torch.zeros(number))


def grow(self: Any, *step: int) -> None:
    self.queue = torch.zeros(len(self.queue) + 1, 2)


QUEUE = ("queue", torch.zeros(1, 2))
STAY = "__init__() does not register all parameters and buffers as they stay: "
PLAIN = "a checkpoint holds tensors and plain Python values only"
Members = dict[str, Any]
CASES: list[tuple[str, Members, str]] = [
    ("objective", {"after_step": after(add)}, f"{STAY}'queue' of shape (4, 2), which came later. A run could not resume"),
    ("objective", {"forward": changing("objective", add)}, "'queue' of shape (4, 2), which came later"),
    ("objective", {"after_step": after(add_parameter)}, "'scale' of shape (3,), which came later"),
    ("objective", {"after_step": after(add_many)}, "'queue9' of shape (9,), which came later and 3 more. A run"),
    ("head", {"forward": changing("head", add)}, "'queue' of shape (4, 2), which came later"),
    ("head", {"after_step": after(add_module)}, "'extra.weight' of shape (2, 2), which came later, 'extra.bias'"),
    ("backbone", {"forward": changing("backbone", add)}, "'queue' of shape (4, 2), which came later"),
    (
        "objective",
        {"__init__": building("objective", ("queue", None)), "after_step": after(lambda self, _: add_none(self))},
        "'queue' of shape (4, 2), which came later",
    ),
    (
        "objective", {"__init__": building("objective", QUEUE), "after_step": after(grow)},
        f"{STAY}'queue' of shape (1, 2), which now has shape (2, 2)",
    ),
    ("head", {"__init__": building("head", QUEUE), "forward": changing("head", grow)}, "'queue' of shape (1, 2), which"),
    (
        "backbone", {"__init__": building("backbone", QUEUE), "forward": changing("backbone", grow)},
        "'queue' of shape (1, 2), which now has shape",
    ),
    (
        "objective",
        {"__init__": building("objective", QUEUE), "after_step": after(lambda self, _: setattr(self, "queue", None))},
        "'queue' of shape (1, 2), which now is gone",
    ),
    (
        "objective",
        {"__init__": building("objective", QUEUE), "after_step": after(lambda self, _: delattr(self, "queue"))},
        "'queue' of shape (1, 2), which now is gone",
    ),
    ("objective", {"get_extra_state": gives(np.zeros(3)), "set_extra_state": gives(None)}, "an array of float64: what it"),
    ("objective", {"get_extra_state": gives(np.float32(3)), "set_extra_state": gives(None)}, PLAIN),
    ("head", {"get_extra_state": gives({"at": [len]}), "set_extra_state": gives(None)}, "what it returned['at'][0] is a"),
    ("objective", {"get_extra_state": gives(torch.nn.Linear(2, 2)), "set_extra_state": gives(None)}, PLAIN),
    (
        "backbone", {"get_extra_state": gives({"step": 1}), "set_extra_state": gives(None)},
        "get_extra_state() returned a dict: a backbone is saved as tensors alone, so register buffers instead",
    ),
    ("backbone", {"get_extra_state": gives(np.zeros(3)), "set_extra_state": gives(None)}, "saved as tensors alone"),
    ("objective", {"get_extra_state": fails}, "the state cannot be saved: KeyError: 'absent'"),
    ("head", {"get_extra_state": fails}, "the state cannot be saved: KeyError: 'absent'"),
    (
        "objective", {"get_extra_state": gives({"step": 1}), "set_extra_state": fails},
        "the state cannot be restored: KeyError: 'absent'",
    ),
    ("head", {"get_extra_state": gives({"step": 1}), "set_extra_state": fails}, "cannot be restored: KeyError: 'absent'"),
    ("objective", {"get_extra_state": gives({"step": 1})}, "what get_extra_state() returns, set_extra_state() takes"),
]  # fmt: skip
RIGHT: list[tuple[str, Members]] = [
    ("objective", {"get_extra_state": gives({"step": 1, "seen": {"a"}}), "set_extra_state": gives(None)}),
    ("backbone", {"get_extra_state": gives(torch.zeros(2)), "set_extra_state": gives(None)}),
    (
        "objective",
        {
            "__init__": building("objective", ("queue", torch.zeros(3))),
            "after_step": after(lambda self, step: setattr(self, "queue", torch.full((3,), float(step)))),
        },
    ),
    ("head", {"forward": changing("head", lambda self: cached(self))}),
]


def add_none(self: Any) -> None:
    self.queue = torch.zeros(4, 2)


def cached(self: Any) -> None:
    """Keep a buffer that is not saved, in another shape each time."""
    size = getattr(self, "table", torch.zeros(0)).shape[0] + 1
    self.register_buffer("table", torch.zeros(size), persistent=False)
