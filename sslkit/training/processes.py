"""The processes of a run: when one of them dies, the others end soon after and say so.

Fabric's launcher starts the others from the first one. It would silently kill the first one as soon as another ends
with a code other than 0, even for a stop that the same command resumes; `Watch` takes its place. Under torchrun and
SLURM, those end the processes.
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

from sslkit.contracts.backward import is_lost
from sslkit.errors import PeerError, SslkitError, UsageError
from sslkit.training.fabric_import import import_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric

GRACE_S = 20.0
"""Time that a process has to end by itself after another one has died; one that waits for it on a GPU never would."""
_LAST_MESSAGES_S = 5.0
_POLL_S = 0.5


def check_launcher(fabric: Fabric) -> None:
    """Refuse a number of ranks that differs from the number of processes that torchrun, srun or mpirun started.

    If each believed it was the only one, all would train the same run in the same folder; if some were missing, the
    others would wait for them forever.

    Raises:
        UsageError: The numbers differ; the message gives the options to write.
    """
    count, by = started_together()
    environment = getattr(fabric.strategy, "cluster_environment", None)  # none for one device
    needs_srun = type(environment).__name__ == "SLURMEnvironment" and fabric.world_size > 1
    if count == fabric.world_size or not (needs_srun or count > 1):
        return
    if needs_srun and count <= 1:
        raise UsageError(
            f"SLURM must start {fabric.world_size} processes, and started only this one: write srun before the command"
        )
    raise UsageError(
        f"{by} started {count} processes, but --devices and --nodes ask for {fabric.world_size}: "
        "write --devices with the number of processes per machine, and --nodes with the number of machines"
    )


def started_together() -> tuple[int, str]:
    """Return how many processes were started together, and by which launcher; 1 where no launcher says so."""
    sizes = [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpirun")]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sizes.insert(0, ("WORLD_SIZE", "torchrun"))
    return next(((int(os.environ[name]), by) for name, by in sizes if name in os.environ), (1, ""))


class Watch(threading.Thread):
    """End this process when a child, or its parent, has died.

    Args:
        children: Processes that this one started; the first of them is rank 1.
        parent: Id of the process that started this one, if that belongs to the run.
        leave: Ends the process with a code, because its main thread may hang forever.
    """

    def __init__(
        self, children: Sequence[subprocess.Popen[bytes]], parent: int | None, leave: Callable[[int], object] = os._exit
    ) -> None:
        super().__init__(daemon=True, name="sslkit-watch")
        self.children, self.parent, self.leave = children, parent, leave
        self.done = threading.Event()

    def run(self) -> None:
        """Look at the other processes until one has died, or the run has ended."""
        while not self.done.wait(_POLL_S):
            if not self.dead():
                continue
            if not self.done.wait(GRACE_S):
                print(f"error: {self.message()}", file=sys.stderr, flush=True)  # noqa: T201
                self.end_children()
                self.leave(self.code())
            return

    def dead(self) -> list[tuple[int, int]]:
        """Return (rank, exit code) of the processes that failed."""
        failed = [(0, 1)] if self.parent is not None and os.getppid() != self.parent else []
        return failed + [(rank, child.returncode) for rank, child in enumerate(self.children, 1) if child.poll()]

    def wait(self, seconds: float, enough: Callable[[list[bool]], bool]) -> None:
        """Wait until `enough` of the others have ended, so that their last messages are printed."""
        end = time.monotonic() + seconds
        while not enough(self._ended()) and time.monotonic() < end:
            time.sleep(_POLL_S)

    def _ended(self) -> list[bool]:
        """Return for each child, or for the parent, whether it has ended."""
        if self.children:
            return [child.poll() is not None for child in self.children]
        return [self.parent is None or os.getppid() != self.parent]

    def code(self) -> int:
        """Return the most telling exit code: that of a process that did not merely lose another one."""
        codes = [code for _, code in self.dead()]
        return next((code for code in codes if code > 1), 1)

    def message(self) -> str:
        """Name the ranks that died."""
        ranks = [
            f"rank {rank} " + (f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")
            for rank, code in self.dead()
        ]
        if self.parent is not None:
            ranks = ["rank 0 has died"]
        return f"{', '.join(ranks) or 'another rank has died'}; the same command resumes from the newest checkpoint"

    def end_children(self) -> None:
        """Kill the children."""
        for child in self.children:
            child.kill()


@contextmanager
def watching(fabric: Fabric) -> Iterator[None]:
    """Watch the other processes of a run inside the block.

    Raises:
        PeerError: A collective failed because another process has died; that one printed its own message.
    """
    if fabric.world_size == 1:
        yield
        return
    watch = _watch(fabric)
    watch.start()
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        watch.wait(GRACE_S, any)
        raise PeerError(watch.message(), watch.code()) from error
    except SslkitError:
        if fabric.is_global_zero and not watch.children:
            time.sleep(
                _LAST_MESSAGES_S
            )  # srun and torchrun end all processes as soon as one has failed: the others end first
        raise
    finally:
        watch.done.set()
        if watch.dead():
            watch.wait(_LAST_MESSAGES_S, all)
            watch.end_children()


def _watch(fabric: Fabric) -> Watch:
    """Return a watch over the processes of Fabric's launcher, to replace the launcher's own."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    launched = isinstance(fabric.strategy.cluster_environment, LightningEnvironment)  # type: ignore[attr-defined]
    children = getattr(fabric.strategy.launcher, "procs", []) if launched else []
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._run = lambda: True  # type: ignore[attr-defined]
    return Watch(children, os.getppid() if launched and fabric.local_rank else None)


def launcher_rank() -> int:
    """Return the rank of this process according to its launcher, before the ranks of a run are joined."""
    import_fabric()
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0)
