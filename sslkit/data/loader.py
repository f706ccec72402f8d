"""Batches in order, made ahead by loader processes."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from sslkit.data.epochs import Item
from sslkit.data.ring_buffer import RingBuffer, Sent
from sslkit.data.views import Failure, ViewDataset
from sslkit.errors import SslkitError

ASKING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a run to stop; SLURM sends SIGTERM, and what its `--signal` names, which often is SIGUSR1."""
AHEAD = 2
"""Batches that each loader process makes ahead."""
_DYING_S = 2.0


class Loader:
    """Batches of items in order, made ahead by loader processes; these end where its block does.

    The pixels of a batch are its own until the next one is asked for. Memory for them is taken once, and is all that
    the loader takes, besides one decoded image in each process: (2 w + 1) batches with w processes.

    Args:
        dataset: Makes the items.
        items: Of each batch; none has more than the first.
        workers: Loader processes; with 0, batches are made here when they are asked for.
        device: That the batches are for.

    Raises:
        DataError: An image cannot be used; the message names it.
        PluginError: The source or the sampler failed.
        SslkitError: A loader process died; the message says how, and what it had in hand.
    """

    def __init__(self, dataset: ViewDataset, items: Iterator[list[Item]], workers: int, device: torch.device) -> None:
        self.dataset = dataset
        first = next(items, [])
        self.ring = RingBuffer(dataset.shapes(len(first)), AHEAD * workers + 1) if workers else None
        numbered = enumerate(chain([first], items) if first else ())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # how many is the user's choice
            loader: DataLoader[Any] = DataLoader(
                _Making(dataset, self.ring),
                sampler=_Listed(numbered),
                batch_size=None,  # the dataset makes whole batches
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=device.type == "cuda",
                prefetch_factor=AHEAD if workers else None,
                worker_init_fn=_quiet if workers else None,
            )
            self.stream: Any = iter(loader)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the loader processes; of one that died, which torch tells at any moment and place, say what it held."""
        dead: list[str] = []
        for _again in range(2):  # torch may tell of the death here, too
            with suppress(RuntimeError):
                if isinstance(error, OSError | EOFError):
                    self._wait_for_one_that_dies()
                dead = dead or (self._dead() if isinstance(error, RuntimeError | OSError | EOFError) else [])
                self._end()
                break
        if dead:
            raise SslkitError("\n".join(dead)) from error

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> dict[str, Any]:
        batch: dict[str, Any] | Failure = next(self.stream)
        if isinstance(batch, Failure):
            raise batch.error(batch.message)
        return batch

    def _dead(self) -> list[str]:
        """Say of each loader process that died how it did, and what it had in hand."""
        return [
            f"loader process {number} {_how(worker.exitcode)}; it had {self.dataset.in_hand(number)} in hand"
            for number, worker in enumerate(self._workers())
            if worker.exitcode
        ]

    def _wait_for_one_that_dies(self) -> None:
        """Wait a moment: the connections of a process that dies end before it does."""
        if workers := self._workers():
            wait([worker.sentinel for worker in workers], _DYING_S)

    def _workers(self) -> Sequence[Any]:
        return getattr(self.stream, "_workers", ())

    def _end(self) -> None:
        """End the loader processes now: they ignore signals that would end them later, and Python's exit waits."""
        if hasattr(self.stream, "_shutdown_workers"):
            self.stream._shutdown_workers()
            for worker in self.stream._workers:
                worker.kill()


def _how(code: int) -> str:
    if code > 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")


class _Making(Dataset[Any]):
    """Makes numbered batches: in loader processes into the ring, and else into memory of their own."""

    def __init__(self, dataset: ViewDataset, ring: RingBuffer | None) -> None:
        self.dataset = dataset
        self.ring = ring

    def __getitem__(self, numbered: tuple[int, list[Item]]) -> dict[str, Any] | Sent | Failure:
        number, items = numbered
        if self.ring is None:
            return self.dataset[items]
        made = self.dataset.fill(items, self.ring[number])
        return made if isinstance(made, Failure) else Sent(self.ring, number, made)


class _Listed:
    """A sampler over an iterator that is made for it; used once."""

    def __init__(self, numbered: Iterator[tuple[int, list[Item]]]) -> None:
        self.numbered = numbered

    def __iter__(self) -> Iterator[tuple[int, list[Item]]]:
        return self.numbered


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet(worker: int) -> None:  # noqa: ARG001
    """Leave signals to the main process: a worker that dies of Ctrl-C would take the batch in hand with it."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in ASKING:
        signal.signal(name, signal.SIG_IGN)
