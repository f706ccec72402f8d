"""Show progress on stderr: live on a terminal, as plain lines elsewhere, such as in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    from sslkit.api import Progress  # imports torch

PLAIN_EVERY_S = 10.0
"""Seconds between plain lines without a terminal."""
_SHOWN_APART = {"images_per_s", "waiting"}
_ALWAYS_GENERAL = {"loss", "sampler"}


def make_console(*, stderr: bool) -> Console:
    """Return a console on stderr, or on stdout; rich itself respects NO_COLOR and TERM=dumb.

    Only a terminal is interactive, even where FORCE_COLOR asks for colours, as Jupyter does for every process that a
    notebook starts. On stderr a notebook gets plain text, and not a block of HTML for each line.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    console = Console(
        stderr=stderr, highlight=False, force_interactive=None if stream.isatty() else False,
        force_jupyter=False if stderr else None,
    )  # fmt: skip
    if not stderr and not console.is_terminal:
        console.width = max(console.width, 120)  # a pipe has no width: do not wrap its lines
    return console


def notify(line: str) -> None:
    """Show a message on stderr, where progress is shown."""
    make_console(stderr=True).print(line, markup=False, soft_wrap=True)


# --------------------------------------------------------------------------------------------- long operations


@contextmanager
def bar(console: Console | None = None) -> Iterator[Progress]:
    """Yield a callback `progress(what, done, total)` that shows a bar for each `what`.

    Args:
        console: Where to show the bars; stderr by default.
    """
    console = console or make_console(stderr=True)
    if console.is_interactive:
        with _bars(console) as progress:
            yield progress
    else:
        yield _PlainBars(console)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=console, redirect_stdout=False) as bars:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield progress


@dataclass
class _PlainBars:
    """Print `what: done/total (share)`: always at the end, and before that only for slow operations."""

    console: Console
    clocks: dict[str, _Clock] = field(default_factory=dict)

    def __call__(self, what: str, done: int, total: int) -> None:
        clock = self.clocks.setdefault(what, _Clock())
        if clock.due(done, total):
            share = f" ({done / total:.0%})" if total else ""
            _line(self.console, f"{what}: {done}/{total}{share}")


@dataclass
class _Clock:
    """Decide when the next plain line is due.

    It is due at the end, at each new tenth if a second has passed, and otherwise every `PLAIN_EVERY_S` seconds.
    """

    last: float = field(default_factory=time.monotonic)
    tenth: int = 0
    ended: bool = False

    def due(self, done: int, total: int) -> bool:
        """Return whether a line is due, and if so, start to wait for the next."""
        now, tenth = time.monotonic(), 10 * done // total if total else 10
        end = done >= total and not self.ended
        elapsed = now - self.last
        if not (end or elapsed >= PLAIN_EVERY_S or (elapsed >= 1 and tenth > self.tenth)):
            return False
        self.last, self.tenth, self.ended = now, tenth, done >= total
        return True


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------- training


class _Frame(NamedTuple):
    """The displayed state: values of the last step and means over recent steps."""

    step: int
    terms: Mapping[str, float]
    means: Mapping[str, float]
    images_per_s: float
    waiting: float
    eta_s: float


class OnlineScores(Protocol):
    """Scores that are among a step's values now and then, and that are shown until the next ones."""

    def take(self, terms: Mapping[str, float]) -> Mapping[str, float]:
        """Take the scores out of a step's values, and return the others."""

    def values(self) -> Mapping[str, float]:
        """Return the newest scores."""

    def activity(self) -> str:
        """Say what keeps the run waiting; "" while nothing does."""

    def table(self) -> Table:
        """Return a table of the newest scores; without rows before the first ones."""


class Display:
    """Show a training run: as a live panel on a terminal, elsewhere as occasional lines.

    Attributes:
        online: Scores of online probes, for runs that have them.

    Args:
        steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of one epoch.
        console: Where to show the run; stderr by default.
    """

    def __init__(self, steps: int, steps_per_epoch: int, console: Console | None = None) -> None:
        self.steps = steps
        self.steps_per_epoch = steps_per_epoch
        self.console = console or make_console(stderr=True)
        self._clock = _Clock()
        self._seen = 0
        self._frame = _Frame(0, {}, {}, 0.0, 0.0, float("nan"))
        self._live: Live | None = None
        self.online: OnlineScores | None = None

    def start(self, step: int) -> None:
        """Start at a step: 0, or where a run resumes."""
        self._frame = self._frame._replace(step=step)
        if self.console.is_interactive and self._live is None:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._panel, console=self.console, refresh_per_second=4, redirect_stdout=False
            )
            self._live.start()

    def update(self, step: int, terms: Mapping[str, float], images_per_s: float, waiting: float, eta_s: float) -> None:
        """Show the values of a step.

        Args:
            step: Optimizer steps done.
            terms: Name -> value; `objective.term` names are shown by objective.
            images_per_s: Images per second of this step, over all devices.
            waiting: Share of this step's time spent waiting for data, in [0, 1].
            eta_s: Seconds to the end at this step's speed. The display smooths all three.
        """
        self._seen += 1
        terms = self.online.take(terms) if self.online else terms
        old, remaining = self._frame, max(1, self.steps - step)
        eta = self._mean(old.eta_s / (remaining + 1), eta_s / remaining) * (self.steps - step)
        shown = terms if self._live else {}  # plain lines show no means
        means = {name: self._mean(old.means.get(name, value), value) for name, value in shown.items()}
        speed, share = self._mean(old.images_per_s, images_per_s), self._mean(old.waiting, waiting)
        self._frame = _Frame(step, dict(terms), means, speed, share, eta)
        if self._live is None and (self._seen == 1 or self._clock.due(step, self.steps)):
            _line(self.console, "  ".join([self._head(), self._speed(), *self._values()]))

    def _mean(self, old: float, new: float) -> float:
        """Average over all steps at first, then over about the last twenty."""
        return new if self._seen == 1 or old != old else old + (new - old) * max(1 / self._seen, 0.05)

    def note(self, text: str) -> None:
        """Show a line above the panel."""
        _line(self.console, text)

    def stop(self) -> None:
        """Stop, and leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    # ------------------------------------------------------------------------------------------ pieces

    def _head(self) -> str:
        step, per = self._frame.step, self.steps_per_epoch
        epoch, epochs = max(0, step - 1) // per + 1, -(-self.steps // per)
        return f"step {step}/{self.steps}  epoch {epoch}/{epochs}  ETA {_clock_time(self._frame.eta_s)}"

    def _speed(self) -> str:
        text = f"{self._frame.images_per_s:.1f} images/s  waiting for data {self._frame.waiting:.0%}"
        activity = self.online.activity() if self.online else ""
        return f"{text}  {activity}" if activity else text

    def _values(self) -> list[str]:
        values = {name: value for name, value in self._frame.terms.items() if name not in _SHOWN_APART}
        values |= self.online.values() if self.online else {}
        return [f"{name} {value:.4g}" for name, value in values.items()]

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_row(Text(self._head(), style="bold"), ProgressBar(total=self.steps, completed=self._frame.step))
        tables = Table.grid(padding=(0, 3))
        tables.add_row(*(table for table in self._tables() if table.row_count))
        return Group(head, Text(self._speed()), tables)

    def _tables(self) -> list[Table]:
        """Return tables: the loss and each objective's values with their recent means; online scores; the rest."""
        losses, rest = _table("", "now", "mean"), _table("", "now")
        prefix = ""
        for name, value in sorted(self._frame.terms.items(), key=lambda item: item[0] != "loss"):
            objective, dot, term = name.partition(".")
            if name in _SHOWN_APART:
                continue
            if name != "loss" and (not dot or objective in _ALWAYS_GENERAL):
                rest.add_row(name, _number(value))
                continue
            if dot and objective != prefix:
                losses.add_row(objective, style="bold")
            prefix = objective if dot else ""
            losses.add_row(f"  {term}" if dot else name, _number(value), _number(self._frame.means[name]))
        return [losses, *([self.online.table()] if self.online else []), rest]


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _number(value: float) -> str:
    return f"{value:.4g}"


def _clock_time(seconds: float) -> str:
    """Format a duration as h:mm:ss, or as `?` while it is unknown."""
    return str(timedelta(seconds=round(seconds))) if 0 <= seconds < float("inf") else "?"
