"""Measure weights with probes: those of a run, or of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sslkit.api import Progress
from sslkit.errors import DataError
from sslkit.planning.plan import Measurement
from sslkit.probes.evaluate import ProbeEvaluator, ProbeScores
from sslkit.seeds import torch_seeded
from sslkit.storage import checkpoint, weights
from sslkit.storage.run_folder import RunFolder

_ONLINE = "online.backbone."
PROBES = "probes.json"


@dataclass(frozen=True)
class Weights:
    """Tensors for a backbone.

    Attributes:
        name: Of the features, in tables: "trained", "step 400", or the file's.
        origin: The file.
        tensors: Key -> tensor.
        prefix: What its keys begin with.
    """

    name: str
    origin: str
    tensors: Mapping[str, Tensor]
    prefix: str = ""

    @classmethod
    def of_run(cls, folder: RunFolder) -> Weights:
        """Take the trained backbone of a run, or the online backbone of its newest checkpoint.

        Raises:
            DataError: It has neither.
        """
        if folder.weights.exists():
            return cls("trained", str(folder.weights), checkpoint.load_weights(folder.weights)[0])
        found = checkpoint.restore(folder.checkpoints)
        if found is None:
            raise DataError(f"{folder.path} has neither {folder.weights.name} nor a checkpoint: nothing to measure yet")
        newest, state, _ = found
        model = state.get("model")
        if not isinstance(model, dict) or not all(isinstance(part, Tensor) for part in model.values()):
            raise DataError(f"{newest} holds no weights: it is no checkpoint of sslkit")
        return cls(f"step {state['step']}", str(newest), model, _ONLINE)

    @classmethod
    def of_file(cls, path: Path, prefix: str) -> Weights:
        """Read a file."""
        return cls(path.name, str(path), weights.read(path), prefix)


@dataclass(frozen=True)
class Measured:
    """Figures of some weights.

    Attributes:
        weights: The file that was measured.
        partial: What of it was not used, in words.
        probes: Name of the features -> figures.
        shown: The same, beside what the run's folder holds.
        written: The file that the figures are in.
    """

    weights: str
    partial: str | None
    probes: Mapping[str, ProbeScores]
    shown: Mapping[str, ProbeScores]
    written: Path | None = None

    def kept(self, folder: RunFolder, note: str) -> Measured:
        """Write the figures beside those of the run's folder; others stay as they are.

        Args:
            folder: Of the run.
            note: What was changed in the run's recipe; figures of other settings have a name of their own.
        """
        own = {name + note: figures for name, figures in self.probes.items()}
        with folder.locked():
            every: dict[str, ProbeScores] = folder.read(PROBES, {})
            every |= {name: every.get(name, {}) | figures for name, figures in own.items()}
            folder.write(PROBES, every)
        shown = every if not note else own
        return Measured(self.weights, self.partial, own, shown, folder.path / PROBES)


def measure(
    measurement: Measurement, given: Weights, device: torch.device, progress: Progress,
    partial: bool = False, references: bool = False, say: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Measured:  # fmt: skip
    """Measure weights, before any image is read making sure that they fit.

    Args:
        measurement: Probes and backbone.
        given: The weights.
        device: Where the backbone computes.
        progress: Shows what takes its time.
        partial: Go on when only a part of the weights fits.
        references: Measure raw pixels and the recipe's random weights beside them.
        say: Told at once of what did not fit, and of categories that cannot be measured well.

    Raises:
        DataError: The weights do not fit, or images or labels are missing.
    """
    backbone = _backbone(measurement, device)
    rest = weights.load_into(backbone, given.tensors, given.origin, given.prefix, partial)
    if rest:
        say(rest)
    probing = ProbeEvaluator(measurement, progress)
    for warning in probing.news():
        say(warning)
    found: dict[str, ProbeScores] = {}
    if references:
        found = probing.of_pixels_and("random weights", _backbone(measurement, device), device, progress)
    found[given.name] = probing.of_backbone(backbone, device, progress)
    for warning in probing.news():
        say(warning)
    return Measured(given.origin, rest, found, found)


def _backbone(measurement: Measurement, device: torch.device) -> nn.Module:
    """Make the backbone as at the start of a run."""
    with torch_seeded(measurement.seed, "backbone"):
        made: nn.Module = measurement.backbone.make()
    return made.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
