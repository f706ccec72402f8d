"""When one process of a run dies, the others end with its code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sslkit.errors import PeerError, PreemptedError, UsageError
from sslkit.training import processes


@pytest.fixture
def child() -> Iterator[Any]:
    """Start processes that do what they are told."""
    started = []

    def child(code: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        return started[-1]

    yield child
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    monkeypatch.setattr(processes, "_LAST_MESSAGES_S", 0.2)
    monkeypatch.setattr(processes, "_POLL_S", 0.01)


SLEEPS = "import time; time.sleep(60)"


def test_a_process_that_hangs_ends_with_the_code_of_the_one_that_died(child: Any, capsys: Any) -> None:
    left: list[int] = []
    hangs = child(SLEEPS)
    watch = processes.Watch([child("raise SystemExit(1)"), hangs, child("raise SystemExit(5)")], None, left.append)
    watch.start()
    watch.join(20)
    assert not watch.is_alive()
    assert left == [5]
    assert "rank 1 ended with code 1, rank 3 ended with code 5; the same command resumes" in capsys.readouterr().err
    assert hangs.wait(10) == -signal.SIGKILL


def test_where_the_first_process_is_gone_the_others_leave(capsys: Any) -> None:
    left: list[int] = []
    watch = processes.Watch([], os.getppid() + 1, left.append)
    watch.start()
    watch.join(20)
    assert left == [1]
    assert "error: rank 0 has died" in capsys.readouterr().err


def test_nothing_happens_while_all_live_or_when_the_run_has_ended(child: Any) -> None:
    left: list[int] = []
    live = processes.Watch([child(SLEEPS)], os.getppid(), left.append)
    live.start()
    good = processes.Watch([child("")], None, left.append)
    good.start()
    ended = processes.Watch([child("raise SystemExit(5)")], None, left.append)
    ended.done.set()
    ended.start()
    time.sleep(1)
    assert not left
    assert live.is_alive()
    assert good.is_alive()
    live.done.set()
    good.done.set()
    for watch in (live, good, ended):
        watch.join(20)
        assert not watch.is_alive()


@pytest.fixture
def fabric(child: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a run of three processes knows of them: one fails, one hangs."""
    started = [child("raise SystemExit(6)"), child(SLEEPS)]
    monkeypatch.setattr(processes, "_watch", lambda fabric: processes.Watch(started, None, lambda code: None))
    return SimpleNamespace(world_size=3, children=started)


@pytest.mark.parametrize("words", ["[gloo/transport/tcp/pair.cc] Connection closed by peer", "NCCL error: timeout"])
def test_a_collective_that_fails_is_told_by_the_death_behind_it(fabric: Any, words: str) -> None:
    told = pytest.raises(PeerError, match="rank 1 ended with code 6; the same command resumes")
    with told as caught, processes.watching(fabric):
        raise RuntimeError(words)
    assert caught.value.exit_code == 6
    assert fabric.children[1].wait(10) == -signal.SIGKILL


def test_what_is_no_lost_process_is_told_as_it_is(fabric: Any) -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"), processes.watching(fabric):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(("first", "children", "waits"), [(True, 0, True), (False, 0, False), (True, 1, False)])
def test_under_a_launcher_the_first_process_ends_last(first, children, waits, child, monkeypatch) -> None:
    """srun and torchrun end all of them as soon as one has ended with a code."""
    slept: list[float] = []
    started = [child(SLEEPS) for _ in range(children)]
    monkeypatch.setattr(processes, "_watch", lambda fabric: processes.Watch(started, None, lambda code: None))
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    run = SimpleNamespace(world_size=2, is_global_zero=first)
    with pytest.raises(PreemptedError), processes.watching(run):  # type: ignore[arg-type]
        raise PreemptedError("stopped")
    assert slept == [0.2] * waits


def test_one_process_needs_no_watch() -> None:
    with processes.watching(SimpleNamespace(world_size=1)):  # type: ignore[arg-type]
        pass


class SLURMEnvironment:
    """Stands in for Lightning's class of that name."""


def started(world_size: int, environment: object = None) -> Any:
    return SimpleNamespace(world_size=world_size, strategy=SimpleNamespace(cluster_environment=environment))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing started this process together with others."""
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("variables", "by"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "2"}, "torchrun"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun"),
    ],
)
def test_another_number_of_processes_than_was_started_is_refused(variables, by, monkeypatch) -> None:
    """Each would take itself for the first one, and train in the same folder."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for world in (1, 2, 8):
        with pytest.raises(UsageError, match=f"{by} started 4 processes, but --devices and --nodes ask for {world}: "):
            processes.check_launcher(started(world))
    processes.check_launcher(started(4, SLURMEnvironment()))


@pytest.mark.usefixtures("alone")
def test_one_that_waits_for_what_srun_should_start_is_refused(monkeypatch) -> None:
    with pytest.raises(UsageError, match="SLURM must start 2 processes, and started only this one: write srun"):
        processes.check_launcher(started(2, SLURMEnvironment()))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # an interactive shell, in which Lightning starts the others
    processes.check_launcher(started(2))
    processes.check_launcher(started(1, SLURMEnvironment()))
