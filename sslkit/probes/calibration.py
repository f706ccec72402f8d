"""Batch norm statistics of a backbone from the training crops of a probe.

The running statistics of a network that was never trained are those of no data, mean 0 and variance 1: in evaluation
mode its batch norm does nothing, and what is measured is not the network that training starts from. Calibration
computes the statistics without any training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslkit.api import Progress, no_progress
from sslkit.errors import DataError
from sslkit.planning.recipe import View
from sslkit.probes.crops import Crops
from sslkit.probes.features import check_readable, normaliser

_BATCH = 128
"""Crops of one forward pass; the last one has up to twice as many, as a few crops alone have poor statistics."""


def batch_norms(backbone: nn.Module) -> list[_BatchNorm]:
    """Return the batch norm layers with running statistics."""
    return [part for part in backbone.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]


def calibrate(
    backbone: nn.Module, crops: Crops, device: torch.device, view: View, progress: Progress = no_progress
) -> None:
    """Recompute the running statistics of every batch norm layer, from training crops alone; nothing else changes.

    Each layer gets the mean, over batches, of the batches' means and unbiased variances, as by
    `torch.optim.swa_utils.update_bn` (Izmailov et al., arXiv 1803.05407, section 3.2). Deviation: all other layers,
    such as dropout and stochastic depth, stay in evaluation mode, so that the statistics are not random.

    Args:
        backbone: The backbone, on `device`, changed in place. Layers must not be of `SyncBatchNorm` where ranks differ
            in what they run.
        crops: The crops; those of the test side and of unreadable images are left out.
        device: Device that computes.
        view: Mean and standard deviation that pixels are normalised with.
        progress: Shows how many crops have been read.

    Raises:
        DataError: There are fewer than two readable training crops.
    """
    normalise = normaliser(view, device)
    with _collecting(backbone), torch.no_grad():
        for pixels in _training_batches(crops, progress):
            backbone(normalise(pixels))


@contextmanager
def _collecting(backbone: nn.Module) -> Iterator[None]:
    """Reset statistics and collect new ones inside the block; restore modes and momentum after it."""
    modes = [(part, part.training) for part in backbone.modules()]
    norms = batch_norms(backbone)
    momenta = [norm.momentum for norm in norms]
    backbone.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, training in modes:
            part.training = training


def _training_batches(crops: Crops, progress: Progress) -> Iterator[Tensor]:
    """Yield the pixels (n 3 s s) of the readable training crops in order, `_BATCH` or more at a time."""
    pending, start, count = [], 0, 0
    for pixels in crops.batches(progress):
        part = slice(start, start + len(pixels))
        start += len(pixels)
        pending.append(pixels[~crops.test[part] & crops.readable[part]])
        count += len(pending[-1])
        while sum(map(len, pending)) >= 2 * _BATCH:
            joined = torch.cat(pending)
            yield joined[:_BATCH]
            pending = [joined[_BATCH:]]
    if count < 2:
        check_readable(crops)
        raise DataError("the statistics of batch norm need two training crops or more, and this probe has one")
    yield torch.cat(pending)
