"""Batch norm statistics of a probe's training crops: against torch's own, and without any side effect."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import update_bn

from sslkit.errors import DataError
from sslkit.planning.recipe import ProbeTable, View
from sslkit.probes import crops as crops_module
from sslkit.probes.calibration import batch_norms, calibrate
from sslkit.probes.crops import collect_crops

CPU = torch.device("cpu")
VIEW = View(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


class Net(nn.Module):
    """The first two stages of a small ResNet, dropout between them, and batch norm of each kind."""

    def __init__(self, dropout=0.0):
        super().__init__()
        net = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], width_per_group=64)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.layer1)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Sequential(net.layer2, nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5, momentum=0.3))

    def forward(self, x):
        return {"features": self.last(self.drop(self.stem(x)))}


def dots(plugins, images, **options):
    source = plugins.find("source", "dots").cls(images=images, **options)
    source.open()
    return collect_crops(source, ProbeTable(use="nearest", size=16, test_share=0.3), 0)


def net(dropout=0.0):
    torch.manual_seed(0)
    module = Net(dropout)
    module.eval()(torch.zeros(1, 3, 16, 16))  # the lazy layer gets its weights
    return module


def statistics(module):
    return {name: value for name, value in module.state_dict().items() if "running" in name or "tracked" in name}


@pytest.mark.parametrize("images", [60, 600])
def test_statistics_are_those_of_update_bn_on_the_training_crops_alone(plugins, images):
    """There are batches of 128, and the last has whatever is left, up to 255."""
    crops = dots(plugins, images)
    ours = net()
    ours.last[3].running_mean.fill_(7)  # reset first
    theirs = copy.deepcopy(ours)
    calibrate(ours, crops, CPU, VIEW)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (VIEW.mean, VIEW.std))
    train = (torch.cat(list(crops.batches()))[~crops.test].float() / 255 - mean) / std
    count = max(len(train) // 128, 1)
    batches = [*train[: 128 * (count - 1)].split(128), train[128 * (count - 1) :]] if count > 1 else [train]
    update_bn(batches, theirs)
    assert len(statistics(ours)) == 3 * len(batch_norms(ours)) > 20
    for name, value in statistics(ours).items():
        torch.testing.assert_close(value, statistics(theirs)[name], rtol=1e-4, atol=1e-5)
    assert ours.last[3].num_batches_tracked == len(batches)


def test_test_crops_and_unreadable_images_do_not_count(plugins, monkeypatch):
    crops = dots(plugins, 60, broken=(3, 4, 5, 6, 7))
    module, again = net(), net()
    calibrate(module, crops, CPU, VIEW)
    assert not crops.readable.all()
    pixels = torch.cat(list(crops.batches()))
    out = crops.test | ~crops.readable
    assert (out & ~crops.test).any()
    pixels[out] = torch.randint(0, 256, pixels[out].shape, dtype=torch.uint8)
    monkeypatch.setattr(crops, "batches", lambda progress: iter([pixels]))
    calibrate(again, crops, CPU, VIEW)
    assert all(torch.equal(value, statistics(again)[name]) for name, value in statistics(module).items())


def test_statistics_are_the_same_every_time_and_for_any_number_of_decoding_threads(plugins, monkeypatch):
    modules = [net(dropout=0.5) for _ in range(3)]
    for threads, module in zip((1, 4, 4), modules, strict=True):
        monkeypatch.setattr(crops_module, "cores", lambda threads=threads: threads)
        calibrate(module, dots(plugins, 200), CPU, VIEW)
        calibrate(module, dots(plugins, 200), CPU, VIEW)  # nothing of the first time remains
    first, *others = map(statistics, modules)
    for other in others:
        assert all(torch.equal(value, other[name]) for name, value in first.items())
    without_dropout = net()
    calibrate(without_dropout, dots(plugins, 200), CPU, VIEW)
    assert all(torch.equal(value, statistics(without_dropout)[name]) for name, value in first.items())


def test_weights_modes_momentum_and_the_random_state_stay_as_they_are(plugins):
    module = net(dropout=0.5).train()
    module.stem[1].eval()  # frozen on its own
    modes = {name: part.training for name, part in module.named_modules()}
    momenta = [norm.momentum for norm in batch_norms(module)]
    weights = {name: value.clone() for name, value in module.named_parameters()}
    state = torch.get_rng_state()
    calibrate(module, dots(plugins, 60), CPU, VIEW)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert [norm.momentum for norm in batch_norms(module)] == momenta
    assert 0.3 in momenta
    assert all(torch.equal(value, weights[name]) for name, value in module.named_parameters())
    assert all(value.grad is None for value in module.parameters())


def test_layers_without_running_statistics_are_none_of_its_business():
    parts = [nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3), nn.LayerNorm(3)]
    assert batch_norms(nn.Sequential(*parts)) == parts[:1]


def test_too_few_training_crops_are_refused(plugins):
    crops = dots(plugins, 60)
    crops.test[:] = True
    crops.test[5] = False
    with pytest.raises(DataError, match="need two training crops or more, and this probe has one"):
        calibrate(net(), crops, CPU, VIEW)
    crops = dots(plugins, 60, broken=tuple(range(60)))
    with pytest.raises(DataError, match=r"none of the \d+ images that a probe would train on can be read"):
        calibrate(net(), crops, CPU, VIEW)
