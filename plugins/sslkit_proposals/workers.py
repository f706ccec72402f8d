"""Map a function over many numbers in several processes, in order, even if processes die."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from sslkit.errors import SslkitError
from sslkit.folders import processes, signals_blocked

T = TypeVar("T")
Job = Callable[[int], T]
"""A picklable function, called with one number at a time."""

WINDOW = 8
"""Numbers submitted ahead, per process."""


def map_ordered(job: Job[T], numbers: Sequence[int], jobs: int, crashed: Callable[[int], T]) -> Iterator[T]:
    """Yield `job(number)` for each number, in order.

    Args:
        job: The function. It is pickled once per process; an exception in it ends the map.
        numbers: The arguments of `job`, one per call.
        jobs: Number of processes. With 1 the job runs in this process, which a crash of native code ends.
        crashed: Returns the result for a number whose process dies twice in a row.

    Raises:
        SslkitError: The processes do not start.
    """
    if len(numbers) <= 1 or processes(jobs) <= 1:
        yield from (job(number) for number in numbers)
        return
    early: dict[int, T] = {}
    done = 0
    while done < len(numbers):
        with _WorkerPool(job, min(jobs, len(numbers) - done)) as pool:
            try:
                for result in pool.results(numbers[done:], early):
                    done += 1
                    yield result
            except BrokenProcessPool:
                early |= {number: _retry(job, number, crashed) for number in pool.suspects()}


def _retry(job: Job[T], number: int, crashed: Callable[[int], T]) -> T:
    """Retry a number that was in progress when a process died, in a pool of its own."""
    with _WorkerPool(job, 1) as pool:
        try:
            return next(pool.results([number], {}))
        except BrokenProcessPool:
            pool.suspects()
            return crashed(number)


class _WorkerPool(Generic[T]):
    """Processes that record in shared memory which number each of them is working on."""

    def __init__(self, job: Job[T], jobs: int) -> None:
        context = mp.get_context("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["sslkit.api"])
        self.jobs = jobs
        self.working_on = context.Array("q", [-1] * jobs, lock=False)
        setup = (job, self.working_on, context.Value("i", 0))
        self.pool = ProcessPoolExecutor(jobs, context, _start, setup)

    def __enter__(self) -> _WorkerPool[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def results(self, numbers: Sequence[int], early: dict[int, T]) -> Iterator[T]:
        """Yield results in order, submitting a bounded number of tasks ahead."""
        ahead: deque[T | Future[T]] = deque()
        for number in numbers:
            ahead.append(early[number] if number in early else self._submit(number))
            if len(ahead) >= WINDOW * self.jobs:
                yield _value(ahead.popleft())
        while ahead:
            yield _value(ahead.popleft())

    def _submit(self, number: int) -> Future[T]:
        with signals_blocked():  # the pool starts its processes here
            return self.pool.submit(_work, number)

    def suspects(self) -> list[int]:
        """Return the numbers that were in progress.

        Raises:
            SslkitError: No number was in progress: the processes died at their start.
        """
        numbers = [number for number in self.working_on if number >= 0]
        if not numbers:
            raise SslkitError("the worker processes died before their first image; use --jobs 1 to see why")
        return numbers


def _value(result: T | Future[T]) -> T:
    return result.result() if isinstance(result, Future) else result


_state: dict[str, Any] = {}


def _start(job: Job[Any], working_on: Any, count: Any) -> None:
    """Set up a worker process: ignore Ctrl-C, which the parent handles, and exit when the parent exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with count.get_lock():
        slot, count.value = count.value, count.value + 1
    _state.update(job=job, slot=slot, working_on=working_on)


def _exit_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(number: int) -> Any:
    _state["working_on"][_state["slot"]] = number
    result = _state["job"](number)
    _state["working_on"][_state["slot"]] = -1
    return result
