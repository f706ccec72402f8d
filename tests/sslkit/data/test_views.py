"""An item is a function of seed, epoch and index alone, and a batch consists of its items."""

from __future__ import annotations

import numpy as np
import torch

from sslkit import images
from sslkit.api import Proposals
from sslkit.contracts.proposals import CheckedProposals
from sslkit.data.cache import Cache
from sslkit.data.epochs import Item
from sslkit.data.views import Failure, to_device
from sslkit.plugins import Component, Owner

CPU = torch.device("cpu")


def test_an_item_does_not_depend_on_earlier_ones(dataset) -> None:
    one, other = dataset(), dataset()
    for place in range(5):
        other[[Item(0, place)]]
    first, again = one[[Item(1, 3)]], other[[Item(1, 3)]]
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first if name not in ("counts", "bad"))


def test_epoch_image_and_seed_each_change_an_item(dataset) -> None:
    batches = [dataset()[[Item(0, 3)]], dataset()[[Item(1, 3)]], dataset("seed=4")[[Item(0, 3)]]]
    boxes = [item["boxes.scene"] for item in batches]
    assert not torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])


def test_a_second_group_leaves_the_first_one_unchanged(dataset) -> None:
    """So an ablation that drops an objective is a fair comparison."""
    more = "\n[objectives.parts]\n[[augment.part]]\nsize = 16\n"
    without, with_parts = dataset()[[Item(0, 2)]], dataset("sampler.parts=3", more=more)[[Item(0, 2)]]
    assert "pixels.part.online" in with_parts
    assert torch.equal(without["pixels.scene.online"], with_parts["pixels.scene.online"])


def test_an_image_is_decoded_once_for_all_its_views(dataset, monkeypatch) -> None:
    views = dataset("sampler.parts=3", more="\n[objectives.parts]\n[[augment.part]]\nsize = 16\n")
    calls = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *arguments: calls.append(arguments[1]) or decode(*arguments))
    item = views[[Item(0, 5)]]
    assert calls == ["0005.png"]
    assert item["pixels.scene.online"].shape == (1, 2, 3, 24, 24)
    assert item["pixels.part.online"].shape == (1, 3, 3, 16, 16)


def test_a_bad_image_is_replaced_as_a_function_of_epoch_and_index(dataset) -> None:
    """Always by the same image, by others in other epochs, and with its own views: it may also be in the batch itself."""
    good = dataset()
    several = [dataset("source.broken=[2]")[[Item(epoch, 2)]] for epoch in (0, 0, 1, 2, 3)]
    replacements = [int(item["index"]) for item in several]
    assert 2 not in replacements
    assert replacements[0] == replacements[1]
    assert len(set(replacements)) > 1
    assert torch.equal(several[0]["pixels.scene.online"], several[1]["pixels.scene.online"])
    assert not torch.equal(several[0]["boxes.scene"], good[[Item(0, replacements[0])]]["boxes.scene"])
    assert several[0]["bad"] == [(2, several[0]["bad"][0][1])]
    assert "image 2 (0002.png): 0002.png is not an image" in several[0]["bad"][0][1]
    assert good[[Item(0, 2)]]["bad"] == []


def test_a_bad_replacement_is_replaced_by_the_next_try(dataset) -> None:
    first = int(dataset("source.broken=[2]")[[Item(0, 2)]]["index"])
    second = dataset(f"source.broken=[2, {first}]")[[Item(0, 2)]]
    assert [image for image, _ in second["bad"]][:2] == [2, first]
    assert int(second["index"]) not in (2, first)


def test_when_no_image_can_be_used_it_gives_up(dataset) -> None:
    result = dataset(f"source.broken={list(range(12))}")[[Item(0, 2)]]
    assert isinstance(result, Failure)
    told = "12 of 12 images were tried for a place of a batch"
    assert result.message.startswith(f"{told}, and none can be used; the first: image 2 (0002.png)")


def test_a_small_image_is_bad(dataset) -> None:
    result = dataset("min_image_side=41", 'on_bad_image="stop"')[[Item(0, 2)]]
    assert result == Failure(
        "image 2 (0002.png): 0002.png is 48 x 40 pixels, and min_image_side = 41\n    "
        'on_bad_image = "skip" continues without it; `sslkit data check` finds all of them'
    )
    assert isinstance(dataset("min_image_side=40")[[Item(0, 2)]], dict)


def test_proposals_are_clipped_and_those_below_a_pixel_never_reach_the_sampler(dataset, monkeypatch) -> None:
    class Stored(Proposals):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return np.array([[1, 2, 30, 20], [5, 5, 5, 9], [9, 9, 9.5, 20], [-0.5, 30, 48.9, 40]], np.float32)

    views = dataset()
    views.proposals = CheckedProposals(Component("proposer", "here/stored", Stored, Owner("here", "x", "1")), Stored())
    seen = []
    sample = views.sampler.sample
    monkeypatch.setattr(views.sampler, "sample", lambda *args: seen.append(args[2]) or sample(*args))
    views[[Item(0, 3)]]
    assert seen[0].tolist() == [[1, 2, 30, 20], [0, 30, 48, 40]]


def test_a_batch_is_its_items_concatenated(dataset) -> None:
    views = dataset("source.broken=[4]")
    items = [Item(0, 1), Item(2, 4), Item(1, 3)]
    batch, alone = views[items], [views[[item]] for item in items]
    for name in batch.keys() - {"counts", "bad"}:
        assert torch.equal(batch[name], torch.cat([one[name] for one in alone])), name
    assert batch["bad"] == alone[1]["bad"]
    assert len(batch["bad"]) >= 1


def test_views_augmented_on_bytes_and_on_the_device_agree(dataset) -> None:
    """Up to the rounding on bytes, to whole levels after each operation."""
    early, late = dataset(), dataset(augment=False)
    items = [Item(0, place) for place in range(8)]
    assert late[items]["pixels.scene.online"].dtype == torch.uint8
    a, b = (to_device(each[items], each.views, CPU)["pixels.scene.online"] for each in (early, late))
    assert a.dtype == b.dtype == torch.float32
    level = 1 / (255 * 0.225)
    assert (a - b).abs().max() < 6 * level
    assert (a - b).abs().mean() < 0.7 * level


def test_networks_that_differ_only_in_augmentation_share_crops(dataset) -> None:
    """And each gets its own augmentation, on bytes and on the device."""
    plain = "size = 24\njitter = 0.0\nblur = 0.0\ngrayscale = 0.0\nflip = "
    both = f'[[augment.scene]]\n{plain}0.0\nnetwork = "online"\n[[augment.scene]]\n{plain}1.0\nnetwork = "target"\n'
    edit = ("[[augment.scene]]\nsize = 24\n", both)
    views, raw = dataset(edit=edit), dataset(edit=edit, augment=False)
    items = [Item(0, 1), Item(0, 2)]
    assert "pixels.scene.target" not in raw[items]
    for dataset_ in (views, raw):
        batch = to_device(dataset_[items], dataset_.views, CPU)
        online, target = batch["pixels.scene.online"], batch["pixels.scene.target"]
        torch.testing.assert_close(target, online.flip(-1), atol=1e-5, rtol=0)
        assert not torch.equal(target, online)


def test_counts_are_averaged_over_the_batch(dataset, monkeypatch) -> None:
    views = dataset()
    monkeypatch.setattr(views, "fill_item", lambda item, place, batch: {"drawn": 1.0 + 3 * place})
    assert views[[Item(0, 0), Item(0, 1)]]["counts"] == {"drawn": 2.5}


def test_boxes_are_those_of_the_crops(dataset) -> None:
    """The geometry that objectives read belongs to the pixels of the same views."""
    views = dataset(augment=False)
    batch = views[[Item(0, 1)]]
    image = images.decode(views.source.read(1), "x")
    assert batch["size"].tolist() == [[40, 48]]
    crops = images.cuts(image, batch["boxes.scene"][0].numpy(), 24, "bicubic")
    assert np.array_equal(batch["pixels.scene.online"][0].permute(0, 2, 3, 1).numpy(), crops)


def test_a_cache_changes_no_bit_and_decodes_once(dataset, monkeypatch) -> None:
    plain, cached = dataset(), dataset(cache=Cache(12, 10**6))
    items = [Item(epoch, image) for epoch in range(2) for image in range(3)]
    expected = plain[items]
    calls = []
    read = cached.source.read
    monkeypatch.setattr(cached.source, "read", lambda index: calls.append(index) or read(index))
    batch = cached[items]
    assert calls == [0, 1, 2]
    assert all(torch.equal(batch[name], expected[name]) for name in expected if name not in ("counts", "bad"))
