"""Right samples pass, and batches hold nothing that was not written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslkit.api import Sample
from sslkit.boxes import empty
from sslkit.contracts.samplers import CheckedSampler
from sslkit.data.epochs import Item
from sslkit.data.views import Failure
from sslkit.errors import PluginError
from sslkit.plugins import Component, Owner
from tests.conftest import Pair
from tests.sslkit.contracts.zoo import BOXES

COMPONENT = Component("sampler", "here/pair", Pair, Owner("here", "here", "1"))


def draws(*samples):
    """Return what a sampler that returns these samples gives for an image of 48 x 40 pixels."""
    returned = iter(samples)
    cls = type("Fixed", (Pair,), {"sample": lambda self, *given: next(returned)})
    sampler = CheckedSampler(COMPONENT, cls())
    return [sampler.sample(40, 48, empty(), np.random.default_rng(0)) for _ in samples]


@pytest.mark.parametrize(
    "boxes",
    [
        BOXES,
        BOXES.astype(np.float64),
        BOXES.astype(np.float16),
        BOXES.astype(">f4"),
        BOXES[::-1],
        np.asfortranarray(BOXES),
        np.broadcast_to(BOXES[0], (2, 4)),
        BOXES + np.array([0, 0, 1e-5, 1e-5], np.float32),
        BOXES - 1e-5,
        np.array([[0, 0, 48, 40], [0, 0, 1e-3, 1e-3]]),
    ],
)  # fmt: skip
def test_right_boxes_are_taken(boxes):
    [sample] = draws(Sample({"scene": boxes}))
    assert sample.boxes["scene"] is boxes


@pytest.mark.parametrize("value", [0, 1, 0.5, True, np.float32(0.5), np.int64(3), np.bool_(True)])
def test_right_counts_are_taken(value):
    [sample] = draws(Sample({"scene": BOXES}, {"drawn": value}))
    assert sample.counts == {"drawn": value}


def test_a_count_that_some_images_lack_is_told():
    with pytest.raises(
        PluginError, match="returned the counts none, and 'drawn' for another image: return all of them"
    ):
        draws(Sample({"scene": BOXES}, {"drawn": 1}), Sample({"scene": BOXES}))


@pytest.fixture
def poison(monkeypatch):
    """Return a function that fills new memory with values that no batch has, as that of other programs may."""
    plain = torch.empty

    def empty_(*shape, **options):
        made = plain(*shape, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made.fill_(torch.iinfo(made.dtype).max)

    return lambda: monkeypatch.setattr(torch, "empty", empty_)


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("network", ["both", "online"])
def test_no_batch_holds_memory_that_was_not_written(dataset, monkeypatch, poison, augment, network):
    tables = f'[[augment.scene]]\nnetwork = "{network}"\nsize = 24\n'
    other = "" if network == "both" else '[[augment.scene]]\nnetwork = "target"\nsize = 16\n'
    edit = ("[[augment.scene]]\nsize = 24\n", tables + other)
    more = "\n[objectives.parts]\n[[augment.part]]\nsize = 16\n"
    data = dataset("sampler.parts=3", "source.broken=[2]", more=more, edit=edit, augment=augment)
    items = [Item(0, 1), Item(0, 2), Item(1, 5)]
    expected = data[items]
    poison()
    filled = data[items]
    monkeypatch.undo()
    assert filled.keys() == expected.keys()
    for name in filled.keys() - {"counts", "bad"}:
        assert torch.equal(filled[name], expected[name]), name


@pytest.mark.parametrize("boxes", [BOXES[:1], BOXES[0], BOXES[:, :1], BOXES[:0], np.float32(7), BOXES[[0, 1, 0]]])
def test_boxes_that_would_broadcast_fill_no_batch(dataset, monkeypatch, poison, boxes):
    data = dataset()
    monkeypatch.setattr(data.sampler.sampler, "sample", lambda *given: Sample({"scene": boxes}))
    poison()
    result = data[[Item(0, 3)]]
    assert isinstance(result, Failure)
    assert result.error is PluginError
    assert result.message.startswith("image 3 (0003.png): sampler 'fake/pair' of plugin 'fake' (sslkit-fake 1.2): ")
