"""Measure wall-clock time by section."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Clock:
    """Adds up time by section. The time of an inner section does not count for the outer one.

    The sections thus add up to the time of the outermost ones.

    Args:
        device: The clock waits for this device at both ends of a section, so that work counts where it was queued.

    Attributes:
        on: Whether the clock measures, and waits for the device; change it outside sections only.
        seconds: Section -> seconds.
    """

    def __init__(self, device: torch.device) -> None:
        self.waits = device.type not in ("cpu", "meta")
        self.device = device
        self.on = True
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def wait(self) -> None:
        """Wait until the device has finished its queued work."""
        if self.waits:
            torch.accelerator.synchronize(self.device)

    def enter(self, name: str, *_: Any) -> None:
        """Enter a section; also usable as a module's hook."""
        if self.on:
            self._charge()
            self._open.append(name)

    def leave(self, *_: Any) -> None:
        """Leave the innermost section; also usable as a module's hook."""
        if self.on:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Add the time since the last call to the innermost section."""
        self.wait()
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time the block."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def calls(self, owner: Any, name: str, section: str) -> Iterator[None]:
        """Time the calls of an object's function inside the block."""
        inner: Callable[..., Any] = getattr(owner, name)
        overridden = name in vars(owner)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.section(section):
                return inner(*args, **kwargs)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, inner) if overridden else delattr(owner, name)

    @contextmanager
    def forward(self, module: nn.Module, section: str) -> Iterator[None]:
        """Time a module's forward passes inside the block."""
        hooks = [
            module.register_forward_pre_hook(lambda *_: self.enter(section)),
            module.register_forward_hook(self.leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
