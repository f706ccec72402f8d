"""Measure the weights of a run, or of a file, with probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from sslkit.api import Progress
from sslkit.errors import DataError, UsageError
from sslkit.planning.plan import ProbingPlan
from sslkit.probes.calibration import batch_norms
from sslkit.probes.evaluate import CALIBRATED, ProbeEvaluator, ProbeScores
from sslkit.seeds import torch_seeded
from sslkit.storage import checkpoint
from sslkit.storage import weights as weight_files
from sslkit.storage.run_folder import PROBES, RunFolder
from sslkit.weights import describe_fit, load_into

_ONLINE = "online.backbone."


@dataclass(frozen=True)
class BackboneWeights:
    """Tensors for a backbone.

    Attributes:
        name: Name of the features in tables: "trained", "step 400", or the file's name.
        origin: The file that they were read from.
        tensors: Key -> tensor.
        prefix: Prefix of the keys that belong to the backbone.
    """

    name: str
    origin: str
    tensors: Mapping[str, Tensor]
    prefix: str = ""

    @classmethod
    def of(
        cls, run: RunFolder | None, path: Path, make: Callable[[], nn.Module], prefix: str, key: str
    ) -> BackboneWeights:
        """Load the weights of a run, or of the file at `path`; see `of_run` and `of_file`."""
        return cls.of_run(run) if run else cls.of_file(path, make, prefix, key)

    @classmethod
    def of_run(cls, folder: RunFolder) -> BackboneWeights:
        """Load the trained backbone of a run, or the online backbone of its newest checkpoint.

        Raises:
            DataError: The run has neither.
        """
        if folder.weights.exists():
            return cls("trained", str(folder.weights), weight_files.load(folder.weights)[0])
        restored = checkpoint.restore(folder.checkpoints)
        if restored is None:
            raise DataError(f"{folder.path} has neither {folder.weights.name} nor a checkpoint: nothing to measure yet")
        newest, state, _ = restored
        model = state.get("model")
        if not isinstance(model, dict) or not all(isinstance(part, Tensor) for part in model.values()):
            raise DataError(f"{newest} holds no weights: it is not a checkpoint of sslkit")
        return cls(f"step {state['step']}", str(newest), model, _ONLINE)

    @classmethod
    def of_file(cls, path: Path, make: Callable[[], nn.Module], prefix: str = "", key: str = "") -> BackboneWeights:
        """Read a file of weights.

        Args:
            path: The file.
            make: Makes the backbone that they belong to; only called to say which of several state dicts fit it.
            prefix: Prefix of the keys that belong to the backbone.
            key: The state dict to read where there are several.

        Raises:
            DataError: See `sslkit.storage.weights.read`.
        """
        expected = cache(lambda: make().state_dict())
        tensors = weight_files.read(path, key, lambda tensors: f", {describe_fit(tensors, expected(), prefix)}")
        return cls(path.name, str(path), tensors, prefix)


@dataclass(frozen=True)
class Measurement:
    """Scores of some weights.

    Attributes:
        weights: The file of weights that was measured.
        partial: Description of the tensors that could not be loaded; None when all of them fit.
        probes: Name of the features -> scores.
        failed: Probes that failed, at least for some features, and so lack scores.
        shown: The same, together with the scores that the run's folder already holds.
        written: The file that holds the scores; None when they were not written.
    """

    weights: str
    partial: str | None
    probes: Mapping[str, ProbeScores]
    shown: Mapping[str, ProbeScores]
    written: Path | None = None
    failed: tuple[str, ...] = ()

    def save(self, folder: RunFolder, note: str) -> Measurement:
        """Add the scores to the run's folder, without changing other scores; return what to show.

        Args:
            folder: The run's folder.
            note: Changes to the run's recipe, which become part of the name of the features; "" if there are none.
        """
        renamed = {name + note: scores for name, scores in self.probes.items()}
        with folder.locked():
            stored: dict[str, ProbeScores] = folder.read(PROBES, {})
            stored |= {name: stored.get(name, {}) | scores for name, scores in renamed.items()}
            folder.write(PROBES, stored)
        shown = stored if not note else renamed
        return replace(self, probes=renamed, shown=shown, written=folder.path / PROBES)


def measure(
    probing: ProbingPlan, weights: BackboneWeights, device: torch.device, progress: Progress,
    partial: bool = False, references: bool = False, recalibrate: bool = False,
    warn: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Measurement:  # fmt: skip
    """Check that weights fit the backbone, before any image is read, and measure them.

    Args:
        probing: Probes and backbone.
        weights: Weights to measure.
        device: Device that the backbone computes on.
        progress: Shows the progress of long operations.
        partial: Continue when only some of the weights fit.
        references: Also measure raw pixels and the recipe's random weights, as they are and with calibrated batch norm.
        recalibrate: Measure the weights with batch norm statistics from each probe's training crops.
        warn: Receives warnings at once: weights that do not fit, images and categories that cannot be measured well.

    Raises:
        DataError: The weights do not fit, or images or labels are missing.
        UsageError: The backbone is to be recalibrated, and has no batch norm.
    """
    backbone = build_backbone(probing, device)
    if recalibrate and not batch_norms(backbone):
        raise UsageError(
            f"backbone '{probing.backbone.component.id}' has no batch norm, so nothing can be recalibrated: measure it "
            "as it is"
        )
    misfits = load_into(backbone, weights.tensors, weights.origin, weights.prefix, partial)
    if misfits:
        warn(misfits)
    failed: dict[str, Exception] = {}
    evaluator = ProbeEvaluator(probing, progress, failed.setdefault)
    for warning in evaluator.new_warnings():
        warn(warning)
    scores: dict[str, ProbeScores] = {}
    if references:
        scores = evaluator.measure_references(build_backbone(probing, device), device, progress)
    name = weights.name + CALIBRATED if recalibrate else weights.name
    scores[name] = evaluator.measure_backbone(backbone, device, progress, recalibrate)
    for warning in evaluator.new_warnings():
        warn(warning)
    if failed and not any(scores.values()):
        raise next(iter(failed.values()))
    for probe, error in failed.items():
        warn(f"warning: probe '{probe}' failed: {error}")
    return Measurement(weights.origin, misfits, scores, scores, failed=tuple(failed))


def build_backbone(probing: ProbingPlan, device: torch.device) -> nn.Module:
    """Build the backbone with a run's initial weights."""
    with torch_seeded(probing.seed, "backbone"):
        backbone: nn.Module = probing.backbone.make()
    return backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
