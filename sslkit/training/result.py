"""The outcome of a run, of this process or read from the folder of an earlier one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sslkit.probes.evaluate import ProbeScores
from sslkit.probes.verdict import Verdict, judge
from sslkit.storage.run_folder import BAD_IMAGES, PROBES, RunFolder
from sslkit.training.processes import launcher_rank


@dataclass
class Result:
    """The outcome of a run.

    Attributes:
        folder: The run's folder.
        state: "finished", or "stopped" and resumable.
        step: Optimizer steps done.
        steps: Optimizer steps of the whole run.
        terms: Terms of the last step; empty for a run that had finished before.
        probes: "raw pixels", "random weights", "random weights, calibrated" and "trained" -> scores.
        seconds: Wall-clock time of the training and its probes.
        rank: This process's rank.
        resumed_from: The step of the checkpoint that this session began with; 0 for a new run.
        bad: Images that were skipped.
    """

    folder: Path
    state: str
    step: int
    steps: int
    terms: dict[str, float] = field(default_factory=dict)
    probes: dict[str, ProbeScores] = field(default_factory=dict)
    seconds: float = 0.0
    rank: int = 0
    resumed_from: int = 0
    bad: int = 0

    @property
    def verdict(self) -> Verdict | None:
        """Whether training improved the features, as far as the run's probes can see; None without probes."""
        return judge(self.probes)

    def __repr__(self) -> str:
        loss = f", loss {self.terms['loss']:.4g}" if "loss" in self.terms else ""
        return f"Result({self.state} at step {self.step} of {self.steps}{loss}, in {self.folder})"


def finished(folder: RunFolder) -> Result:
    """Return the outcome of a run that finished earlier."""
    status = folder.status()
    return Result(
        folder.path, "finished", status["step"], status["steps"], probes=folder.read(PROBES, {}),
        seconds=status.get("seconds", 0.0), rank=launcher_rank(),
        resumed_from=status["step"], bad=len(folder.read(BAD_IMAGES, [])),
    )  # fmt: skip
