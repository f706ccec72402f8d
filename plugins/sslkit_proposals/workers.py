"""A function over many numbers, in several processes, in order, surviving the death of one."""

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

T = TypeVar("T")
Job = Callable[[int], T]
"""Picklable; called with one number at a time."""

WINDOW = 8
"""Numbers handed out ahead, per process."""


def ordered(job: Job[T], numbers: Sequence[int], jobs: int, died: Callable[[int], T]) -> Iterator[T]:
    """Yield `job(number)` for each number, in order.

    Args:
        job: What to do. It is pickled once per process; an exception in it ends everything.
        numbers: Its arguments.
        jobs: Number of processes; 1 stays in this one, where a crash of native code cannot be survived.
        died: Gives the result for a number whose process dies each time, twice in a row.

    Raises:
        SslkitError: The processes do not start.
    """
    if jobs <= 1 or len(numbers) <= 1:
        yield from (job(number) for number in numbers)
        return
    early: dict[int, T] = {}
    done = 0
    while done < len(numbers):
        with _Crew(job, min(jobs, len(numbers) - done)) as crew:
            try:
                for result in crew.results(numbers[done:], early):
                    done += 1
                    yield result
            except BrokenProcessPool:
                early |= {number: _alone(job, number, died) for number in crew.suspects()}


def _alone(job: Job[T], number: int, died: Callable[[int], T]) -> T:
    """Try once more, alone, a number that was being worked on when a process died."""
    with _Crew(job, 1) as crew:
        try:
            return next(crew.results([number], {}))
        except BrokenProcessPool:
            crew.suspects()
            return died(number)


class _Crew(Generic[T]):
    """Processes that note in shared memory what each is working on."""

    def __init__(self, job: Job[T], jobs: int) -> None:
        context = mp.get_context("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["sslkit.api"])
        self.jobs = jobs
        self.working_on = context.Array("q", [-1] * jobs, lock=False)
        setup = (job, self.working_on, context.Value("i", 0))
        self.pool = ProcessPoolExecutor(jobs, context, _start, setup)

    def __enter__(self) -> _Crew[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def results(self, numbers: Sequence[int], early: dict[int, T]) -> Iterator[T]:
        """Yield results in order, handing out a bounded number of tasks ahead."""
        ahead: deque[T | Future[T]] = deque()
        for number in numbers:
            ahead.append(early[number] if number in early else self.pool.submit(_work, number))
            if len(ahead) >= WINDOW * self.jobs:
                yield _value(ahead.popleft())
        while ahead:
            yield _value(ahead.popleft())

    def suspects(self) -> list[int]:
        """Return the numbers that were being worked on.

        Raises:
            SslkitError: None was: the processes died at their start.
        """
        found = [number for number in self.working_on if number >= 0]
        if not found:
            raise SslkitError("the worker processes died before their first image; use --jobs 1 to see why")
        return found


def _value(result: T | Future[T]) -> T:
    return result.result() if isinstance(result, Future) else result


_here: dict[str, Any] = {}


def _start(job: Job[Any], working_on: Any, count: Any) -> None:
    """Prepare a worker process: one thread, Ctrl-C left to the parent, an end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with count.get_lock():
        slot, count.value = count.value, count.value + 1
    _here.update(job=job, slot=slot, working_on=working_on)


def _follow_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(number: int) -> Any:
    _here["working_on"][_here["slot"]] = number
    result = _here["job"](number)
    _here["working_on"][_here["slot"]] = -1
    return result
