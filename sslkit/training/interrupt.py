"""Stop a run on a signal: after a whole step, and on all ranks after the same one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sslkit.data.loader import STOP_SIGNALS

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Interrupt:
    """Whether a run was asked to stop.

    Attributes:
        signal: Name of the signal that asked for it: this rank's own until all agree, then that of any rank.
        agreed: Whether all ranks know of it.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.agreed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let the first of the signals `STOP_SIGNALS` ask for a stop after the current step; a second one acts at once.

        A signal that was ignored before stays ignored: `nohup` does that, so that a run outlives its terminal.
        """
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

        def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.signal = signal.Signals(number).name
            for other, handler in before.items():
                signal.signal(other, handler)

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agree(self, fabric: Fabric) -> None:
        """Learn which signal any rank received, to be called on all ranks."""
        number = torch.tensor(signal.Signals[self.signal] if self.signal else 0, device=fabric.device)
        numbers = fabric.all_gather(number)
        assert isinstance(numbers, Tensor)
        self.agreed, self.signal = True, signal.Signals(int(numbers.max())).name
