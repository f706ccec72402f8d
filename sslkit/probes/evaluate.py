"""Measure a frozen backbone on labelled crops, beside raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkit.api import Labelled, Probe, Progress, Source, no_progress
from sslkit.errors import DataError
from sslkit.planning.plan import ConfiguredComponent, Measurement
from sslkit.planning.recipe import View
from sslkit.probes.crops import Crops, gather

_PIXEL_SIDE = 32
_NO_RATES = ("chosen_", "count_")

ProbeScores = dict[str, dict[str, float]]
"""Probe -> metric -> value."""
Extract = Callable[[Tensor], Tensor]
"""From uint8 pixels (n 3 s s) to features (n f), float32 on the CPU."""


def is_rate(metric: str) -> bool:
    """Say whether a figure of this name lies in [0, 1]; others are settings that a probe chose, and counts."""
    return not metric.startswith(_NO_RATES)


@contextmanager
def frozen(backbone: nn.Module, device: torch.device, view: View) -> Iterator[Extract]:
    """Yield a function from pixels to the features of a backbone in eval mode; it is as it was behind the block.

    Args:
        backbone: On `device`.
        device: Where it computes.
        view: Says how pixels are normalised.
    """
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (view.mean, view.std))
    modes = [(module, module.training) for module in backbone.modules()]

    def extract(pixels: Tensor) -> Tensor:
        x = ((pixels.to(device).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        found: Tensor = backbone(x)["features"]
        return found.float().cpu()

    backbone.eval()
    try:
        with torch.no_grad():
            yield extract
    finally:
        for module, training in modes:
            module.training = training


def raw_pixels(pixels: Tensor) -> Tensor:
    """Return downscaled pixels as features (n 3*32*32), centred per image: what no network has to learn."""
    small = F.interpolate(pixels.float(), (_PIXEL_SIDE, _PIXEL_SIDE), mode="area").flatten(1)
    return small - small.mean(dim=1, keepdim=True)


def features(
    crops: Crops, extracts: Mapping[str, Extract], device: torch.device, progress: Progress = no_progress
) -> dict[str, tuple[Labelled, Labelled]]:
    """Read the crops once and return training and test features of every kind.

    Args:
        crops: Read in batches; the features are held, n * f * 4 bytes for each kind.
        extracts: Kind -> function.
        device: Where probes may compute.
        progress: Shows how far the crops are read.
    """
    tables: dict[str, tuple[Tensor, Tensor]] = {}
    places = (crops.test.long().cumsum(0) - 1, (~crops.test).long().cumsum(0) - 1)
    start = 0
    for pixels in crops.batches(progress):
        part = slice(start, start + len(pixels))
        test = crops.test[part]
        for kind, extract in extracts.items():
            found = extract(pixels)
            if kind not in tables:
                tables[kind] = _room(crops, found.shape[1])
            train_side, test_side = tables[kind]
            train_side[places[1][part][~test]] = found[~test]
            test_side[places[0][part][test]] = found[test]
        start += len(pixels)
    _refuse_unreadable(crops)
    return {
        kind: (_labelled(crops, ~crops.test, found[0], device), _labelled(crops, crops.test, found[1], device))
        for kind, found in tables.items()
    }


def _refuse_unreadable(crops: Crops) -> None:
    for side, what in ((~crops.test, "train"), (crops.test, "test")):
        if not crops.readable[side].any():
            count = len(set(crops.images[side].tolist()))
            words = f"none of the {count} images that a probe would {what} on can be read"
            raise DataError(f"{words}; the first: {crops.unreadable[0]}")


def _room(crops: Crops, width: int) -> tuple[Tensor, Tensor]:
    tested = int(crops.test.sum())
    return torch.empty(len(crops) - tested, width), torch.empty(tested, width)


def _labelled(crops: Crops, side: Tensor, found: Tensor, device: torch.device) -> Labelled:
    """Return features and labels of one side of the split, without those of unreadable images."""
    found, side = found[crops.readable[side]], side & crops.readable
    ignored = None if crops.ignored is None else crops.ignored[side]
    return Labelled(found, crops.labels[side], crops.categories, crops.images[side], ignored, device)


class ProbeEvaluator:
    """Probes with their crops, listed once; probes with the same crops share features.

    Attributes:
        warnings: What a reader of the figures should know of the crops; more may come with a measurement.
    """

    def __init__(self, measurement: Measurement, progress: Progress = no_progress) -> None:
        self.view = measurement.view
        self.probes: dict[str, Probe] = {name: item.made.make() for name, item in measurement.probes.items()}
        self.crops: dict[str, Crops] = {}
        kept: dict[str, Crops] = {}
        opened = _Opened(progress)
        for name, item in measurement.probes.items():
            if item.shared not in kept:
                test = opened(item.test_source) if item.test_source else None
                kept[item.shared] = gather(opened(item.source), item.table, measurement.seed, test)
            self.crops[name] = kept[item.shared]
        told = {name: crops.one_sided() for name, crops in self.crops.items()}
        self.warnings = [f"warning: probe '{name}': {words}" for name, words in told.items() if words]
        self._told = 0
        self._told = 0

    def news(self) -> list[str]:
        """Return the warnings that have not been asked for yet."""
        new, self._told = self.warnings[self._told :], len(self.warnings)
        return new

    def measure(
        self, extracts: Mapping[str, Extract], device: torch.device, progress: Progress = no_progress
    ) -> dict[str, ProbeScores]:
        """Measure several kinds of features in one pass over the crops; return kind -> figures."""
        found: dict[str, ProbeScores] = {kind: {} for kind in extracts}
        for crops in dict.fromkeys(self.crops.values()):
            made = features(crops, extracts, device, progress)
            names = [name for name, of in self.crops.items() if of is crops]
            for kind in extracts:
                found[kind] |= {name: dict(self.probes[name].evaluate(*made[kind])) for name in names}
                del made[kind]
            self._warn_of_unreadable(crops, names)
        return {kind: {name: figures[name] for name in self.crops} for kind, figures in found.items()}

    def _warn_of_unreadable(self, crops: Crops, names: list[str]) -> None:
        """Say, once, which images are missing from the figures of which probes."""
        bad = crops.unreadable
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            told = f"warning: probes {', '.join(names)} leave out what cannot be read: {bad[0]}{more}"
            if told not in self.warnings:
                self.warnings.append(told)

    def of_pixels_and(
        self, what: str, backbone: nn.Module, device: torch.device, progress: Progress = no_progress
    ) -> dict[str, ProbeScores]:
        """Measure "raw pixels" and, under the name `what`, a backbone."""
        with frozen(backbone, device, self.view) as extract:
            return self.measure({"raw pixels": raw_pixels, what: extract}, device, progress)

    def of_pixels(self, progress: Progress = no_progress) -> ProbeScores:
        """Measure raw pixels in place of features."""
        return self.measure({"raw pixels": raw_pixels}, torch.device("cpu"), progress)["raw pixels"]

    def of_backbone(self, backbone: nn.Module, device: torch.device, progress: Progress = no_progress) -> ProbeScores:
        """Measure a backbone; it is left as it was."""
        with frozen(backbone, device, self.view) as extract:
            return self.measure({"backbone": extract}, device, progress)["backbone"]


class _Opened:
    """Opens each source once."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.kept: dict[str, Source] = {}

    def __call__(self, made: ConfiguredComponent) -> Source:
        key = repr((made.component.id, made.options))
        if key not in self.kept:
            self.kept[key] = _opened(made.make(), self.progress)
        return self.kept[key]


def _opened(source: Source, progress: Progress) -> Source:
    missing = source.missing()
    if missing:
        raise DataError(missing)
    source.prepare(progress)
    source.open()
    return source
