"""The processes of one run: when one of them dies, the others end soon and say so.

Fabric's launcher starts the others from the first one. It would kill the first one without a word as soon as another
one ends with a code other than 0, be it that of a stop which the same command resumes; `Watch` stands in for that.
Under torchrun and SLURM, those end the processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from sslkit.errors import PeerError, SslkitError, UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

GRACE_S = 20.0
"""So long a process may take to end by itself once another one has died: one that waits for it on a GPU never would."""
_LAST_WORDS_S = 5.0
_POLL_S = 0.5
_LOST = ("gloo", "connection closed", "connection reset", "monitoredbarrier", "nccl", "tcpstore", "broken pipe")
"""In messages of torch that say that another process cannot be reached."""


def check_launcher(fabric: Fabric) -> None:
    """Refuse a number of processes other than that which torchrun, srun or mpirun started.

    Where each of them took itself for the only one, all would train the same run in the same folder; where some are
    missing, the others would wait for them for ever.

    Raises:
        UsageError: With the options to write.
    """
    count, by = _started()
    environment = getattr(fabric.strategy, "cluster_environment", None)  # none for one device
    needs_srun = type(environment).__name__ == "SLURMEnvironment" and fabric.world_size > 1
    if count == fabric.world_size or not (needs_srun or count > 1):
        return
    if needs_srun and count <= 1:
        raise UsageError(
            f"SLURM is to start {fabric.world_size} processes, and started this one alone: "
            "write srun before the command"
        )
    raise UsageError(
        f"{by} started {count} processes, and --devices and --nodes make {fabric.world_size}: "
        "write --devices with the number of processes on each machine, and --nodes with that of machines"
    )


def _started() -> tuple[int, str]:
    """Return how many processes were started together, and by what; 1 where nothing says so."""
    sizes = [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpirun")]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sizes.insert(0, ("WORLD_SIZE", "torchrun"))
    return next(((int(os.environ[name]), by) for name, by in sizes if name in os.environ), (1, ""))


class Watch(threading.Thread):
    """Ends this process when one that it started, or the one that started it, has died.

    Args:
        children: That this process started; the first of them is process 1.
        parent: The process that started this one, as far as it belongs to the run.
        leave: Ends the process with a code; its main thread may hang for ever.
    """

    def __init__(
        self, children: Sequence[subprocess.Popen[bytes]], parent: int | None, leave: Callable[[int], object] = os._exit
    ) -> None:
        super().__init__(daemon=True, name="sslkit-watch")
        self.children, self.parent, self.leave = children, parent, leave
        self.done = threading.Event()

    def run(self) -> None:
        """Look until there is something to do, or the run has ended."""
        while not self.done.wait(_POLL_S):
            if not self.dead():
                continue
            if not self.done.wait(GRACE_S):
                print(f"error: {self.told()}", file=sys.stderr, flush=True)  # noqa: T201
                self.end_children()
                self.leave(self.code())
            return

    def dead(self) -> list[tuple[int, int]]:
        """Return (number of the process, exit code) of those that failed."""
        gone = [(0, 1)] if self.parent is not None and os.getppid() != self.parent else []
        return gone + [(rank, child.returncode) for rank, child in enumerate(self.children, 1) if child.poll()]

    def wait(self, seconds: float, enough: Callable[[list[bool]], bool]) -> None:
        """Wait until any or all of the others have ended, so that what they had to say is said."""
        end = time.monotonic() + seconds
        while not enough(self._ended()) and time.monotonic() < end:
            time.sleep(_POLL_S)

    def _ended(self) -> list[bool]:
        """Say of each process that this one started, or of the one that started it, whether it is no more."""
        if self.children:
            return [child.poll() is not None for child in self.children]
        return [self.parent is None or os.getppid() != self.parent]

    def code(self) -> int:
        """Return the exit code that says most: that of a process that did not merely lose another one."""
        codes = [code for _, code in self.dead()]
        return next((code for code in codes if code > 1), 1)

    def told(self) -> str:
        """Say which processes died."""
        each = [
            f"process {rank} " + (f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")
            for rank, code in self.dead()
        ]
        if self.parent is not None:
            each = ["process 0 is gone"]
        return f"{', '.join(each) or 'another process is gone'}; the same command goes on from the newest checkpoint"

    def end_children(self) -> None:
        """Kill what this process started."""
        for child in self.children:
            child.kill()


@contextmanager
def watched(fabric: Fabric) -> Iterator[None]:
    """Watch the other processes of a run inside the block, and tell of one that is lost in words.

    Raises:
        PeerError: A collective failed because another process is gone; what that one said is above.
    """
    if fabric.world_size == 1:
        yield
        return
    watch = _watch(fabric)
    watch.start()
    try:
        yield
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        watch.wait(GRACE_S, any)
        raise PeerError(watch.told(), watch.code()) from error
    except SslkitError:
        if fabric.is_global_zero and not watch.children:
            time.sleep(_LAST_WORDS_S)  # srun and torchrun end all as soon as one has failed: the others end before it
        raise
    finally:
        watch.done.set()
        if watch.dead():
            watch.wait(_LAST_WORDS_S, all)
            watch.end_children()


def _watch(fabric: Fabric) -> Watch:
    """Return a watch over what Fabric's launcher started, in place of its own."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    launched = isinstance(fabric.strategy.cluster_environment, LightningEnvironment)  # type: ignore[attr-defined]
    children = getattr(fabric.strategy.launcher, "procs", []) if launched else []
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._run = lambda: True  # type: ignore[attr-defined]
    return Watch(children, os.getppid() if launched and fabric.local_rank else None)


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(words in str(error).lower() for words in _LOST)


def rank_so_far() -> int:
    """Return the number of this process by what launchers say, before the processes of a run are joined."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0)
