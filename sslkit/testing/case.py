"""A component under test, and what checks of several kinds share."""

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
    """A component class and the options that it is checked with.

    Args:
        cls: The class.
        options: Options as in a recipe.
        dims: Sizes of named axes, for an objective or a head that the defaults do not suit (v = 2, k = 3, d = f = 8,
            h = w = 3, t = 5, any other 4).
        sizes: Sides in pixels of the square images that a backbone is checked with.
        expected_failed_checks: Name of a check -> the reason why it fails. Its test must fail, and is reported as an
            expected failure.
    """

    cls: type[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    sizes: tuple[int, ...] = (64, 96)
    expected_failed_checks: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind of component: "objective", "sampler", "backbone", "head", "source" or "probe"."""
        for kind, base in KINDS.items():
            if issubclass(self.cls, base):
                return kind
        raise TypeError(
            f"{self.cls!r} is not a subclass of any of {', '.join(base.__name__ for base in KINDS.values())}"
        )

    @property
    def name(self) -> str:
        """The component's name; the class's name if it has none."""
        return str(getattr(self.cls, "name", self.cls.__name__))

    @property
    def wiring(self) -> tuple[Mapping[str, int], ...]:
        """The arguments that the core passes left of `*`."""
        if self.kind == "objective":
            return (fake_dims(self.cls, self.dims),)
        return ({"d": self.dims.get("d", SIZES["d"])},) if self.kind == "head" else ()

    def make(self, seed: int = 0, **dims: int) -> Any:
        """Build a new instance from `seed`, and restore the global random state.

        Args:
            seed: Seed of torch's global generator.
            dims: Axis -> size; they replace those of `wiring`.
        """
        wiring = tuple({**part, **dims} for part in self.wiring)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.cls(*wiring, **self.options)

    @cached_property
    def shared(self) -> Any:
        """An instance that checks share; copy it before changing it."""
        return self.make()


@contextmanager
def unchanged_random_state(what: str) -> Iterator[None]:
    """Assert that the block does not use the global generators of random, numpy and torch."""
    before = _random_state()
    yield
    changed = [name for name, state in _random_state().items() if state != before[name]]
    assert not changed, f"{what} changes the global random state of {', '.join(changed)}: use a generator instead"


def _random_state() -> dict[str, object]:
    return {
        "random": random.getstate(),
        "numpy": str(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def pickled(component: Any) -> Any:
    """Return a component as a worker process receives it."""
    try:
        return pickle.loads(pickle.dumps(component))  # noqa: S301
    except Exception as error:  # objects fail to pickle in many ways
        raise AssertionError(
            f"it cannot be pickled, as worker processes require: {type(error).__name__}: {error}; "
            "create such objects when they are first used"
        ) from error
