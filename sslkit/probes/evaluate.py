"""Evaluate probes on the frozen features of a backbone, and on raw pixels for comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from sslkit.api import Labelled, Probe, Progress, Source, no_progress
from sslkit.contracts.blame import blamed
from sslkit.contracts.scores import checked_scores
from sslkit.data.opening import open_source
from sslkit.planning.plan import ConfiguredComponent, ProbingPlan
from sslkit.probes.calibration import batch_norms, calibrate
from sslkit.probes.crops import Crops, collect_crops
from sslkit.probes.features import Extractor, extract_features, frozen, private, raw_pixels
from sslkit.probes.noise import sample_counts

RAW_PIXELS, RANDOM_WEIGHTS, CALIBRATED = "raw pixels", "random weights", ", calibrated"
"""Names of features in tables; the last is added to the name of weights whose batch norm was calibrated."""
REFERENCES = (RAW_PIXELS, RANDOM_WEIGHTS, RANDOM_WEIGHTS + CALIBRATED)
"""What a trained backbone is compared with."""

ProbeScores = dict[str, dict[str, float]]
"""Probe -> metric -> value."""
Failed = Callable[[str, Exception], object]
"""What to do about a probe that fails, given its name and the error."""


def refuse(name: str, error: Exception) -> None:  # noqa: ARG001
    """Raise the error of a probe that failed."""
    raise error


class ProbeEvaluator:
    """Probes and their crops, which are listed once; probes with the same crops share features.

    Attributes:
        warnings: Remarks on the crops that a reader of the scores needs; a measurement may add more.
        failed: Called with the name of a probe and its error when it fails, and may raise that; the probe then has no
            scores, and the others are measured. By default it raises.
    """

    def __init__(self, probing: ProbingPlan, progress: Progress = no_progress, failed: Failed = refuse) -> None:
        self.view, self.failed = probing.view, failed
        self.backbone = probing.backbone.component
        self.probes: dict[str, Probe] = {name: item.probe.make() for name, item in probing.probes.items()}
        self.components = {name: item.probe.component for name, item in probing.probes.items()}
        self.pools = {name: item.table.pool for name, item in probing.probes.items()}
        self.crops: dict[str, Crops] = {}
        shared: dict[str, Crops] = {}
        sources = _Sources(progress)
        for name, item in probing.probes.items():
            if item.shared not in shared:
                test = sources.open(item.test_source) if item.test_source else None
                shared[item.shared] = collect_crops(sources.open(item.source), item.table, probing.seed, test)
            self.crops[name] = shared[item.shared]
        one_sided = {name: crops.one_sided_categories() for name, crops in self.crops.items()}
        self.warnings = [f"warning: probe '{name}': {text}" for name, text in one_sided.items() if text]
        self._reported = 0

    def part(self, names: Collection[str], limit: int | None = None) -> ProbeEvaluator:
        """Return an evaluator of some of the probes, on at most the first `limit` crops of each source.

        Raises:
            DataError: The first crops leave one side of a split empty.
        """
        part = copy.copy(self)
        part.probes = {name: self.probes[name] for name in names}
        crops = dict.fromkeys(self.crops[name] for name in names)
        shortened = {item: item.first(limit) if limit else item for item in crops}
        part.crops = {name: shortened[self.crops[name]] for name in names}
        part.warnings, part._reported = [], 0
        return part

    def new_warnings(self) -> list[str]:
        """Return the warnings since the last call."""
        new, self._reported = self.warnings[self._reported :], len(self.warnings)
        return new

    def measure(
        self, extractors: Mapping[str, Extractor], device: torch.device, progress: Progress = no_progress,
        prepare: Callable[[Crops], None] | None = None,
    ) -> dict[str, ProbeScores]:  # fmt: skip
        """Read the crops once and return the scores of each extractor.

        Args:
            extractors: Name -> extractor.
            device: Device that probes may compute on.
            progress: Shows how many crops have been read.
            prepare: Called with each set of crops before its features are extracted; it may read them, too.
        """
        scores: dict[str, ProbeScores] = {kind: {} for kind in extractors}
        for crops in dict.fromkeys(self.crops.values()):
            if prepare:
                prepare(crops)
            names = [name for name, item in self.crops.items() if item is crops]
            pools = list(dict.fromkeys(self.pools[name] for name in names))
            features = extract_features(crops, extractors, pools, device, progress)
            for kind in extractors:
                by_pool = features.pop(kind)
                for name in names:
                    train, test = by_pool[self.pools[name]]
                    try:
                        scores[kind][name] = {**self._evaluate(name, train, test), **sample_counts(test)}
                    except Exception as error:
                        self.failed(name, error)
            self._warn_of_unreadable(crops, names)
        return {
            kind: {name: by_probe[name] for name in self.crops if name in by_probe} for kind, by_probe in scores.items()
        }

    def _evaluate(self, name: str, train: Labelled, test: Labelled) -> dict[str, float]:
        """Return the scores of one probe.

        Raises:
            PluginError: It failed, or its scores break the contract.
        """
        component = self.components[name]
        with blamed(component, "evaluate"):
            scores = self.probes[name].evaluate(private(train), private(test))
        return checked_scores(component, scores)

    def _warn_of_unreadable(self, crops: Crops, names: list[str]) -> None:
        """Warn once of the images that the scores of these probes leave out."""
        reasons = crops.unreadable
        if reasons:
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            warning = f"warning: probes {', '.join(names)} leave out images that cannot be read: {reasons[0]}{more}"
            if warning not in self.warnings:
                self.warnings.append(warning)

    def measure_references(
        self, backbone: nn.Module, device: torch.device, progress: Progress = no_progress
    ) -> dict[str, ProbeScores]:
        """Return the scores of the `REFERENCES`: of raw pixels, and of a backbone that was not trained.

        Args:
            backbone: The backbone, on `device`, which stays as it is. The reference with calibrated batch norm is left
                out if it has none.
            device: Device that the backbone computes on.
            progress: Shows how many crops have been read.
        """
        with frozen(self.backbone, backbone, device, self.view) as extract:
            extractors = {RAW_PIXELS: raw_pixels, RANDOM_WEIGHTS: extract}
            if not batch_norms(backbone):
                return self.measure(extractors, device, progress)
            with self._calibrated(backbone, device, progress) as (calibrated, prepare):
                extractors[RANDOM_WEIGHTS + CALIBRATED] = calibrated
                return self.measure(extractors, device, progress, prepare)

    def measure_pixels(self, progress: Progress = no_progress) -> ProbeScores:
        """Return the scores of raw pixels."""
        return self.measure({RAW_PIXELS: raw_pixels}, torch.device("cpu"), progress)[RAW_PIXELS]

    def measure_backbone(
        self, backbone: nn.Module, device: torch.device, progress: Progress = no_progress, recalibrate: bool = False
    ) -> ProbeScores:
        """Return the scores of a backbone, which stays as it is.

        Args:
            backbone: The backbone, on `device`.
            device: Device that the backbone computes on.
            progress: Shows how many crops have been read.
            recalibrate: Measure a copy whose batch norm statistics come from each probe's training crops.
        """
        if recalibrate:
            with self._calibrated(backbone, device, progress) as (extract, prepare):
                return self.measure({"backbone": extract}, device, progress, prepare)["backbone"]
        with frozen(self.backbone, backbone, device, self.view) as extract:
            return self.measure({"backbone": extract}, device, progress)["backbone"]

    @contextmanager
    def _calibrated(
        self, backbone: nn.Module, device: torch.device, progress: Progress
    ) -> Iterator[tuple[Extractor, Callable[[Crops], None]]]:
        """Yield the extractor of a copy of a backbone, and the function that calibrates it on some crops."""
        replica = copy.deepcopy(backbone)
        with frozen(self.backbone, replica, device, self.view) as extract:
            yield extract, lambda crops: self._calibrate(replica, crops, device, progress)

    def _calibrate(self, backbone: nn.Module, crops: Crops, device: torch.device, progress: Progress) -> None:
        with blamed(self.backbone, "forward"):
            calibrate(backbone, crops, device, self.view, progress)


class _Sources:
    """The sources of all probes, each opened once."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.opened: dict[str, Source] = {}

    def open(self, source: ConfiguredComponent) -> Source:
        key = repr((source.component.id, source.options))
        if key not in self.opened:
            self.opened[key] = open_source(source, self.progress)
        return self.opened[key]
