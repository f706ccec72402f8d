"""The tests that only a GPU can run. Each test's outcome is recorded as it comes."""

from __future__ import annotations

import io
import os
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from gpu.checkout import ROOT
from gpu.process import tail
from gpu.record import Job, PartFailedError, SkippedError

FILE = ROOT / "tests" / "sslkit" / "test_on_gpu.py"
LINES = 12
"""Last lines of a failure on the page."""


class Outcomes:
    """A pytest plugin that records each test."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rows: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = {}
        self.warnings: list[str] = []
        self.began = 0.0

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Record that a test starts, which shows where a part was that ran out of time."""
        self.began = time.monotonic()
        self.add(nodeid, "was running")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Record how setup, test or teardown ended; the worst of the three counts."""
        if report.failed:
            self.failures[short(report.nodeid)] = tail(str(report.longrepr), LINES)
            self.add(report.nodeid, "failed")
        elif report.skipped:
            self.add(report.nodeid, "skipped")
        elif report.when == "call":
            self.add(report.nodeid, "passed")

    def pytest_collectreport(self, report: Any) -> None:
        """Record a file that cannot be imported."""
        if report.failed:
            self.failures["collection"] = tail(str(report.longrepr), LINES)

    def pytest_warning_recorded(self, warning_message: Any) -> None:
        """Collect warnings, which end tests elsewhere."""
        self.warnings.append(f"{warning_message.category.__name__}: {warning_message.message}".splitlines()[0][:200])

    def add(self, nodeid: str, outcome: str) -> None:
        """Record a test's outcome so far."""
        if outcome == "passed" and self.rows[short(nodeid)]["outcome"] == "failed":
            return
        self.rows[short(nodeid)] = {
            "test": short(nodeid), "outcome": outcome, "seconds": f"{time.monotonic() - self.began:.2f}"
        }  # fmt: skip
        rows = list(self.rows.values())
        self.job.record.table("tests", [row for row in rows if row["outcome"] != "skipped"])
        self.job.record.put(tests=rows, failures=self.failures, warnings=sorted(set(self.warnings)))

    def count(self, outcome: str) -> int:
        """Return the number of tests with this outcome."""
        return sum(row["outcome"] == outcome for row in self.rows.values())


def short(nodeid: str) -> str:
    """Return a test's name without its file."""
    return nodeid.rpartition("::")[2]


def run(job: Job) -> None:
    """Run the tests, and list failures with their last lines.

    Raises:
        PartFailedError: A test failed, or none could be collected.
        SkippedError: All tests were skipped.
    """
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a plugin of another library in `site` may fail to import
    outcomes = Outcomes(job)
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-W", "default", f"--basetemp={job.work / 'pytest'}"]
    arguments = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *options, str(FILE)]
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        code = pytest.main(arguments, [outcomes])
    print(printed.getvalue())
    counts = [f"{outcomes.count(name)} {name}" for name in ("passed", "failed", "skipped") if outcomes.count(name)]
    job.record.note(f"{', '.join(counts) or 'no test ran'}.".capitalize())
    if outcomes.warnings:
        job.record.note(f"Warnings, which end the tests in the suite: {'; '.join(sorted(set(outcomes.warnings)))}.")
    if code == pytest.ExitCode.OK and outcomes.count("skipped") == len(outcomes.rows):
        raise SkippedError("every test needs a GPU")
    if code != pytest.ExitCode.OK:
        texts = [f"{name}\n{text}" for name, text in outcomes.failures.items()]
        raise PartFailedError("\n\n".join(texts) or f"pytest ended with code {int(code)}\n{tail(printed.getvalue())}")
