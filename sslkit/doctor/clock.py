"""Wall-clock time by section."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Clock:
    """Adds up time by section: what an inner section takes is its own, and not the outer one's.

    So the sections add up to the time that the outermost ones took.

    Args:
        device: Its queue is emptied at either end of a section, so that work is counted where it was asked for.

    Attributes:
        on: Whether anything is measured, or waited for; is changed outside sections only.
        seconds: Of each section.
    """

    def __init__(self, device: torch.device) -> None:
        self.waits = device.type not in ("cpu", "meta")
        self.device = device
        self.on = True
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def wait(self) -> None:
        """Wait until the device has done what it was asked to."""
        if self.waits:
            torch.accelerator.synchronize(self.device)

    def enter(self, name: str, *_: Any) -> None:
        """Begin a section; also a module's hook."""
        if self.on:
            self._charge()
            self._open.append(name)

    def leave(self, *_: Any) -> None:
        """End the section that began last; also a module's hook."""
        if self.on:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Count the time since the last call to the innermost section."""
        self.wait()
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count what the block takes."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def calls(self, owner: Any, name: str, section: str) -> Iterator[None]:
        """Count the calls of an object's function inside the block."""
        inner: Callable[..., Any] = getattr(owner, name)
        own = name in vars(owner)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.section(section):
                return inner(*args, **kwargs)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, inner) if own else delattr(owner, name)

    @contextmanager
    def forward(self, module: nn.Module, section: str) -> Iterator[None]:
        """Count a module's forward passes inside the block."""
        hooks = [
            module.register_forward_pre_hook(lambda *_: self.enter(section)),
            module.register_forward_hook(self.leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
