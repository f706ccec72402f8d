"""Evaluate probes on the frozen features of a backbone, and on raw pixels for comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkit.api import Labelled, Probe, Progress, Source, no_progress
from sslkit.data.opening import open_source
from sslkit.errors import DataError
from sslkit.planning.plan import ConfiguredComponent, ProbingPlan
from sslkit.planning.recipe import View
from sslkit.probes.crops import Crops, collect_crops

_PIXEL_SIDE = 32
_NOT_RATES = ("chosen_", "count_")

ProbeScores = dict[str, dict[str, float]]
"""Probe -> metric -> value."""
Extractor = Callable[[Tensor], Tensor]
"""Maps uint8 pixels (n 3 s s) to features (n f), float32 on the CPU."""


def is_rate(metric: str) -> bool:
    """Return whether the values of a metric lie in [0, 1]; others are counts, and settings that a probe chose."""
    return not metric.startswith(_NOT_RATES)


@contextmanager
def frozen(backbone: nn.Module, device: torch.device, view: View) -> Iterator[Extractor]:
    """Put a backbone into eval mode and yield its feature extractor; restore its modes afterwards.

    Args:
        backbone: The backbone, on `device`.
        device: Device that computes the features.
        view: Mean and standard deviation that pixels are normalised with.
    """
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (view.mean, view.std))
    modes = [(module, module.training) for module in backbone.modules()]

    def extract(pixels: Tensor) -> Tensor:
        x = ((pixels.to(device).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        features: Tensor = backbone(x)["features"]
        return features.float().cpu()

    backbone.eval()
    try:
        with torch.no_grad():
            yield extract
    finally:
        for module, training in modes:
            module.training = training


def raw_pixels(pixels: Tensor) -> Tensor:
    """Return downscaled pixels as features (n 3*32*32), centred per image: a baseline without any network."""
    small = F.interpolate(pixels.float(), (_PIXEL_SIDE, _PIXEL_SIDE), mode="area").flatten(1)
    return small - small.mean(dim=1, keepdim=True)


def extract_features(
    crops: Crops, extractors: Mapping[str, Extractor], device: torch.device, progress: Progress = no_progress
) -> dict[str, tuple[Labelled, Labelled]]:
    """Read the crops once and return the training and test features of each extractor.

    Args:
        crops: The crops, read in batches. All features are held in memory: n * f * 4 bytes for each extractor.
        extractors: Name -> extractor.
        device: Device that probes may compute on.
        progress: Shows how many crops have been read.

    Raises:
        DataError: None of the training images, or none of the test images, can be read.
    """
    tables: dict[str, tuple[Tensor, Tensor]] = {}
    rows = ((~crops.test).long().cumsum(0) - 1, crops.test.long().cumsum(0) - 1)
    start = 0
    for pixels in crops.batches(progress):
        part = slice(start, start + len(pixels))
        test = crops.test[part]
        for name, extract in extractors.items():
            features = extract(pixels)
            if name not in tables:
                tables[name] = _empty_tables(crops, features.shape[1])
            train_table, test_table = tables[name]
            train_table[rows[0][part][~test]] = features[~test]
            test_table[rows[1][part][test]] = features[test]
        start += len(pixels)
    _check_readable(crops)
    return {
        name: (_labelled(crops, ~crops.test, train, device), _labelled(crops, crops.test, test, device))
        for name, (train, test) in tables.items()
    }


def _check_readable(crops: Crops) -> None:
    for side, verb in ((~crops.test, "train"), (crops.test, "test")):
        if not crops.readable[side].any():
            count = len(set(crops.images[side].tolist()))
            raise DataError(
                f"none of the {count} images that a probe would {verb} on can be read; the first: {crops.unreadable[0]}"
            )


def _empty_tables(crops: Crops, width: int) -> tuple[Tensor, Tensor]:
    """Allocate the features (n f) of the training and the test side."""
    count = int(crops.test.sum())
    return torch.empty(len(crops) - count, width), torch.empty(count, width)


def _labelled(crops: Crops, side: Tensor, features: Tensor, device: torch.device) -> Labelled:
    """Return features and labels of one side of the split, without those of unreadable images."""
    features, side = features[crops.readable[side]], side & crops.readable
    ignored = None if crops.ignored is None else crops.ignored[side]
    return Labelled(features, crops.labels[side], crops.categories, crops.images[side], ignored, device)


class ProbeEvaluator:
    """Probes and their crops, which are listed once; probes with the same crops share features.

    Attributes:
        warnings: Remarks on the crops that a reader of the scores needs; a measurement may add more.
    """

    def __init__(self, probing: ProbingPlan, progress: Progress = no_progress) -> None:
        self.view = probing.view
        self.probes: dict[str, Probe] = {name: item.probe.make() for name, item in probing.probes.items()}
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

    def new_warnings(self) -> list[str]:
        """Return the warnings since the last call."""
        new, self._reported = self.warnings[self._reported :], len(self.warnings)
        return new

    def measure(
        self, extractors: Mapping[str, Extractor], device: torch.device, progress: Progress = no_progress
    ) -> dict[str, ProbeScores]:
        """Read the crops once and return the scores of each extractor."""
        scores: dict[str, ProbeScores] = {kind: {} for kind in extractors}
        for crops in dict.fromkeys(self.crops.values()):
            features = extract_features(crops, extractors, device, progress)
            names = [name for name, item in self.crops.items() if item is crops]
            for kind in extractors:
                scores[kind] |= {name: dict(self.probes[name].evaluate(*features[kind])) for name in names}
                del features[kind]
            self._warn_of_unreadable(crops, names)
        return {kind: {name: by_probe[name] for name in self.crops} for kind, by_probe in scores.items()}

    def _warn_of_unreadable(self, crops: Crops, names: list[str]) -> None:
        """Warn once of the images that the scores of these probes leave out."""
        reasons = crops.unreadable
        if reasons:
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            warning = f"warning: probes {', '.join(names)} leave out images that cannot be read: {reasons[0]}{more}"
            if warning not in self.warnings:
                self.warnings.append(warning)

    def measure_with_pixels(
        self, name: str, backbone: nn.Module, device: torch.device, progress: Progress = no_progress
    ) -> dict[str, ProbeScores]:
        """Return the scores of "raw pixels" and, under `name`, of a backbone, whose modes are restored."""
        with frozen(backbone, device, self.view) as extract:
            return self.measure({"raw pixels": raw_pixels, name: extract}, device, progress)

    def measure_pixels(self, progress: Progress = no_progress) -> ProbeScores:
        """Return the scores of raw pixels."""
        return self.measure({"raw pixels": raw_pixels}, torch.device("cpu"), progress)["raw pixels"]

    def measure_backbone(
        self, backbone: nn.Module, device: torch.device, progress: Progress = no_progress
    ) -> ProbeScores:
        """Return the scores of a backbone, whose modes are restored."""
        with frozen(backbone, device, self.view) as extract:
            return self.measure({"backbone": extract}, device, progress)["backbone"]


class _Sources:
    """The sources of all probes, each opened once."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.opened: dict[str, Source] = {}

    def open(self, source: ConfiguredComponent) -> Source:
        key = repr((source.component.id, source.options))
        if key not in self.opened:
            self.opened[key] = open_source(source.make(), self.progress)
        return self.opened[key]
