"""One component under test."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sslkit.api import Backbone, Head, Objective, Probe, Source, ViewSampler
from sslkit.testing.fakes import SIZES, fake_dims

KINDS: Mapping[str, type[Any]] = {
    "objective": Objective,
    "sampler": ViewSampler,
    "backbone": Backbone,
    "head": Head,
    "source": Source,
    "probe": Probe,
}


@dataclass(frozen=True)
class Case:
    """A component class with the options that it is checked with.

    Args:
        cls: The class.
        options: As a recipe would give them.
        dims: Sizes of named axes, where the kit's own (v = 2, k = 3, d = f = 8, any other 4) do not suit an objective
            or a head.
        sizes: Sides of the square images that a backbone is checked with, pixels.
        expected_failed_checks: Name of a check -> the reason why it fails; such a test must fail, and is reported as
            an expected failure.
    """

    cls: type[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    sizes: tuple[int, ...] = (64, 96)
    expected_failed_checks: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is: "objective", "sampler", "backbone", "head", "source" or "probe"."""
        for kind, base in KINDS.items():
            if issubclass(self.cls, base):
                return kind
        raise TypeError(f"{self.cls!r} is no subclass of {', '.join(base.__name__ for base in KINDS.values())}")

    @property
    def name(self) -> str:
        """The component's name, or its class's where it has none."""
        return str(getattr(self.cls, "name", self.cls.__name__))

    @property
    def wiring(self) -> tuple[Mapping[str, int], ...]:
        """What the core passes left of `*`."""
        if self.kind == "objective":
            return (fake_dims(self.cls, self.dims),)
        return ({"d": self.dims.get("d", SIZES["d"])},) if self.kind == "head" else ()

    def make(self, seed: int = 0, **dims: int) -> Any:
        """Make a new one from `seed`; `dims` replace sizes of its wiring. Global random state is put back."""
        wiring = tuple({**part, **dims} for part in self.wiring)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.cls(*wiring, **self.options)

    @cached_property
    def shared(self) -> Any:
        """One that checks share; what changes it must copy it first."""
        return self.make()


@contextmanager
def random_state_left_alone(what: str) -> Iterator[None]:
    """Assert that the block does not touch the global generators of random, numpy and torch."""
    before = _random_state()
    yield
    touched = [name for name, state in _random_state().items() if state != before[name]]
    assert not touched, f"{what} touches the global random state of {', '.join(touched)}: use what it is given"


def _random_state() -> dict[str, object]:
    return {
        "random": random.getstate(),
        "numpy": str(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def pickled(component: Any) -> Any:
    """Return a component as a worker process gets it."""
    try:
        return pickle.loads(pickle.dumps(component))  # noqa: S301
    except Exception as error:  # each kind of object fails in words of its own
        raise AssertionError(
            f"it cannot be pickled, so no worker process can have it: {type(error).__name__}: {error}"
        ) from error
