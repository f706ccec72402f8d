"""Run the parts one after the other, each in a process of its own, and write what comes after each."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu import checkout, page, process
from gpu.budget import Budget
from gpu.parts import Part
from gpu.record import read_json, write_json

JSON, LOG = "rehearsal.json", "log.txt"
CONDITIONS = Part("conditions", "conditions", "the card and the versions", 1, 1)
CONDITIONS_S, FEWEST_S = 60.0, 3.0
"""The most time for the conditions, and the least with which a part is started."""
PASSING = ("passed", "skipped")


class Rehearsal:
    """A rehearsal, and its files in a folder: `rehearsal.json`, `page.md` with its figures, and `log.txt`.

    Args:
        out: The folder.
        minutes: Time for everything.
        site: Folder of unpacked wheels, if there is one.
        commit: Commit of the checkout, where git does not tell.
    """

    def __init__(self, out: Path, minutes: float, site: Path | None, commit: str | None) -> None:
        self.out, self.budget = out, Budget(60 * minutes)
        self.site = site
        self.about = {
            "commit": commit or checkout.commit(),
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(["python", "-m", "gpu", *sys.argv[1:]]),
        }
        self.content: dict[str, Any] = {
            "rehearsal": 1, "state": "running", "minutes": minutes, "seconds": 0.0, "conditions": self.about,
            "parts": {},
        }  # fmt: skip
        self.on_gpu = False

    def run(self, parts: Sequence[Part]) -> bool:
        """Run the parts; return whether all of them passed or were skipped."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / LOG).unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as work, stoppable():
            try:
                self.measure_conditions(Path(work))
                for place, part in enumerate(parts):
                    self.run_part(part, parts[place:], Path(work))
                self.content["state"] = "finished"
            except KeyboardInterrupt:
                self.content["state"] = "interrupted"
            finally:
                self.save()
        states = [part["status"] for part in self.content["parts"].values()]
        return self.content["state"] == "finished" and all(state in PASSING for state in states)

    def measure_conditions(self, work: Path) -> None:
        """Find out where this runs."""
        result = self.start(CONDITIONS, min(CONDITIONS_S, self.budget.left / 3), work)
        self.content["conditions"] = {**self.about, **result.get("data", {}), "date": self.about["date"]}
        self.on_gpu = bool(result.get("data", {}).get("on_gpu"))
        if result["status"] != "passed":
            self.content["parts"][CONDITIONS.name] = result
        self.save()

    def run_part(self, part: Part, left: Sequence[Part], work: Path) -> None:
        """Run one part, or skip it where it cannot run, and write the result."""
        parts = self.content["parts"]
        if part.needs_gpu and not self.on_gpu:
            parts[part.name] = self.entry(part, 0.0, status="skipped", error="it needs a GPU")
        elif (bound := self.budget.bound(left, self.on_gpu)) < FEWEST_S:
            parts[part.name] = self.entry(part, bound, status="out of time", error="no time was left to start it")
        else:
            parts[part.name] = self.entry(part, bound, status="running")
            self.save()
            parts[part.name] = self.start(part, bound, work)
        self.save()
        print(f"{part.name}: {parts[part.name]['status']}, {parts[part.name]['seconds']:.0f} s", file=sys.stderr)

    def start(self, part: Part, bound: float, work: Path) -> dict[str, Any]:
        """Run a part in a process of its own; return its result."""
        folder, record = work / part.name, work / f"{part.name}.json"
        folder.mkdir()
        env = checkout.environment(checkout.write_metadata(work / "metadata"), self.site)
        if not self.on_gpu:
            env.setdefault("OMP_NUM_THREADS", "1")  # small work; on busy cores more threads wait for each other
        command = [
            sys.executable, "-m", "gpu.child", part.name, "--module", part.module, "--seconds", f"{bound:.1f}",
            "--record", str(record), "--work", str(folder), "--earlier", str((self.out / JSON).resolve()),
        ]  # fmt: skip
        outcome = process.run(command, env, folder, work / f"{part.name}.txt", bound)
        self.log(part, work / f"{part.name}.txt")
        found = read_json(record) or {}
        status, error = judge(found, outcome)
        return {**self.entry(part, bound), **found, "status": status, "error": error, "seconds": outcome.seconds}

    def entry(self, part: Part, bound: float, **more: Any) -> dict[str, Any]:
        """Return what is known of a part without its process."""
        return {"what": part.what, "bound_s": bound, "seconds": 0.0, "error": None, **more}

    def log(self, part: Part, file: Path) -> None:
        """Add what a part printed to the log of all."""
        with (self.out / LOG).open("a") as log:
            log.write(f"==== {part.name}\n{file.read_text(errors='replace')}\n")

    def save(self) -> None:
        """Write everything so far."""
        self.content["seconds"] = self.budget.elapsed
        write_json(self.out / JSON, self.content)
        page.write(self.content, self.out)


def judge(found: dict[str, Any], outcome: process.Outcome) -> tuple[str, str | None]:
    """Return the status of a part and the reason, from its record and from how its process ended."""
    if outcome.code is None:
        return "out of time", f"ended after {outcome.seconds:.0f} s; the last lines that it printed:\n{outcome.tail}"
    if "status" in found and outcome.code == 0:
        return found["status"], found["error"]
    how = f"exit code {outcome.code}" if outcome.code >= 0 else f"ended by {signal.Signals(-outcome.code).name}"
    return "failed", f"{how}; the last lines that it printed:\n{outcome.tail}"


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM interrupt like Ctrl-C: processes are ended and the page is written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
