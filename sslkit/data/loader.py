"""Load batches in order, in loader processes that work ahead."""

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
from sslkit.data.ring_buffer import BatchMessage, RingBuffer
from sslkit.data.views import Failure, ViewDataset
from sslkit.errors import SslkitError
from sslkit.folders import signals_blocked

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a run to stop; SLURM sends SIGTERM, and the one that its `--signal` names, often SIGUSR1."""
BATCHES_AHEAD = 2
"""Batches that each loader process makes ahead."""
_EXIT_WAIT_S = 2.0


class Loader:
    """Batches of items in order, made ahead by loader processes, which end with the loader's `with` block.

    The pixels of a batch stay valid until the next one is requested. Their memory is allocated once: (2 w + 1) batches
    with w processes. In addition, each process holds one decoded image.

    Args:
        dataset: The dataset that makes the batches.
        items: The items of each batch; no batch has more than the first.
        workers: Number of loader processes; with 0, batches are made in this process when they are requested.
        device: The device that the batches will be moved to.

    Raises:
        DataError: An image cannot be used; the message names it.
        PluginError: The source or the sampler failed.
        SslkitError: A loader process died; the message says how, and on which image.
    """

    def __init__(self, dataset: ViewDataset, items: Iterator[list[Item]], workers: int, device: torch.device) -> None:
        self.dataset = dataset
        first = next(items, [])
        self.ring = RingBuffer(dataset.pixel_shapes(len(first)), BATCHES_AHEAD * workers + 1) if workers else None
        numbered = enumerate(chain([first], items) if first else ())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user chose how many
            loader: DataLoader[Any] = DataLoader(
                _BatchMaker(dataset, self.ring),
                sampler=_SingleUseSampler(numbered),
                batch_size=None,  # the dataset makes whole batches
                num_workers=workers,
                collate_fn=_identity,
                pin_memory=device.type == "cuda",
                prefetch_factor=BATCHES_AHEAD if workers else None,
                worker_init_fn=_init_worker if workers else None,
            )
            with signals_blocked(*STOP_SIGNALS):
                self.stream: Any = iter(loader)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the loader processes, and report one that died; torch may raise because of it at any time."""
        deaths: list[str] = []
        for _again in range(2):  # torch may report the death here, too
            with suppress(RuntimeError):
                if isinstance(error, OSError | EOFError):
                    self._wait_for_a_death()
                deaths = deaths or (self._deaths() if isinstance(error, RuntimeError | OSError | EOFError) else [])
                self._end()
                break
        if deaths:
            raise SslkitError("\n".join(deaths)) from error

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> dict[str, Any]:
        batch: dict[str, Any] | Failure = next(self.stream)
        if isinstance(batch, Failure):
            raise batch.error(batch.message)
        return batch

    def _deaths(self) -> list[str]:
        """Describe how each dead loader process ended, and on which image."""
        ended = [(number, process.exitcode) for number, process in enumerate(self.processes()) if process.exitcode]
        return [
            f"loader process {number} {_describe_exit(code)}; it worked on {self.dataset.current_image(number)}"
            for number, code in ended
        ]

    def _wait_for_a_death(self) -> None:
        """Wait a moment: the connections of a dying process close before it ends."""
        if processes := self.processes():
            wait([process.sentinel for process in processes], _EXIT_WAIT_S)

    def processes(self) -> Sequence[Any]:
        """Return the loader processes; without workers, none."""
        return getattr(self.stream, "_workers", ())

    def _end(self) -> None:
        """Kill the loader processes: they ignore signals to stop, and Python waits for them at exit."""
        if hasattr(self.stream, "_shutdown_workers"):
            self.stream._shutdown_workers()
            for worker in self.stream._workers:
                worker.kill()


def _describe_exit(code: int) -> str:
    if code > 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")


class _BatchMaker(Dataset[Any]):
    """Make numbered batches: into the ring in loader processes, otherwise into new memory."""

    def __init__(self, dataset: ViewDataset, ring: RingBuffer | None) -> None:
        self.dataset = dataset
        self.ring = ring

    def __getitem__(self, numbered: tuple[int, list[Item]]) -> dict[str, Any] | BatchMessage | Failure:
        number, items = numbered
        if self.ring is None:
            return self.dataset[items]
        batch = self.dataset.fill(items, self.ring[number])
        return batch if isinstance(batch, Failure) else BatchMessage(self.ring, number, batch)


class _SingleUseSampler:
    """A sampler that returns a given iterator, once."""

    def __init__(self, numbered: Iterator[tuple[int, list[Item]]]) -> None:
        self.numbered = numbered

    def __iter__(self) -> Iterator[tuple[int, list[Item]]]:
        return self.numbered


def _identity(batch: Any) -> Any:
    return batch


def _init_worker(worker: int) -> None:  # noqa: ARG001
    """Leave signals to the main process: a worker that Ctrl-C kills would lose the batch that it is making.

    Signals that arrived before, when they were blocked, are dropped.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in STOP_SIGNALS:
        signal.signal(name, signal.SIG_IGN)
