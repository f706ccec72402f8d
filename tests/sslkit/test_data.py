"""Which images make up a batch, and that an item is a function of seed, epoch and index alone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
import torch

from sslkit import data, images, preparing, recipe
from sslkit.errors import DataError, SslkitError
from sslkit.wiring import make_plan


@pytest.fixture
def dataset(plugins, recipe_text):
    """Return a function that makes the dataset of the fake recipe with overrides."""

    def make(*sets: str, more: str = "") -> data.ViewDataset:
        given, problems = recipe.structure(recipe.parse(recipe_text + more, "dots", "dots.toml", sets))
        assert given, problems
        plan, problems = make_plan(given, plugins)
        assert plan, problems
        return data.ViewDataset(plan, *preparing.prepare(plan))

    return make


def flat(batches) -> list[int]:
    return [item.image for batch in batches for item in batch]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    epochs = data.Epochs(images=24, batch_size=8, accumulate=1, seed=1)
    each = [flat(epochs.micro_batches(3 * epoch, 3 * epoch + 3)) for epoch in range(3)]
    assert [sorted(one) for one in each] == [list(range(24))] * 3
    assert len({tuple(one) for one in each}) == 3
    assert flat(epochs.micro_batches(0, 9)) == [*each[0], *each[1], *each[2]]


@pytest.mark.parametrize(("pad", "steps", "seen"), [(True, 4, 32), (False, 3, 24)])
def test_the_last_batch_is_filled_from_the_epochs_beginning_or_left_out(pad, steps, seen) -> None:
    epochs = data.Epochs(images=26, batch_size=8, accumulate=1, seed=0, pad=pad)
    assert epochs.steps == steps
    order = flat(epochs.micro_batches(0, steps))
    assert len(order) == seen
    assert order[26:] == order[: seen - 26] if pad else len(set(order)) == 24


@pytest.mark.parametrize(("accumulate", "world"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 2)])
def test_passes_and_ranks_split_the_same_batch(accumulate, world) -> None:
    """However a step is divided, the same images make it up, in the same order."""
    whole = data.Epochs(images=40, batch_size=16, accumulate=1, seed=5)
    parts = [data.Epochs(40, 16, accumulate, 5, rank=rank, world=world) for rank in range(world)]
    for step in range(5):
        streams = [list(part.micro_batches(step, step + 1)) for part in parts]
        joined = [item for one_pass in range(accumulate) for stream in streams for item in stream[one_pass]]
        assert joined == next(whole.micro_batches(step, step + 1))


def test_any_step_can_be_asked_for_first() -> None:
    epochs = data.Epochs(images=10, batch_size=4, accumulate=2, seed=2)
    assert list(epochs.micro_batches(0, 9))[14:] == list(epochs.micro_batches(7, 9))


def test_places_that_are_left_out_are_passed_over() -> None:
    whole = list(data.Epochs(13, 4, 1, 7).micro_batches(0, 9))
    epochs = data.Epochs(13, 4, 1, 7, skipped=(0, 1, 5))
    assert [epochs.place(step) for step in range(6)] == [2, 3, 4, 6, 7, 8]
    assert list(epochs.micro_batches(0, 6)) == [whole[place] for place in (2, 3, 4, 6, 7, 8)]


def test_an_item_does_not_depend_on_what_was_made_before(dataset) -> None:
    one, other = dataset(), dataset()
    for place in range(5):
        other[data.Item(0, place)]
    first, again = one[data.Item(1, 3)], other[data.Item(1, 3)]
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first if name != "counts")


def test_epoch_image_and_seed_each_change_an_item(dataset) -> None:
    made = [dataset()[data.Item(0, 3)], dataset()[data.Item(1, 3)], dataset("seed=4")[data.Item(0, 3)]]
    boxes = [item["boxes.scene"] for item in made]
    assert not torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])


def test_a_second_group_leaves_the_first_one_as_it_was(dataset) -> None:
    """So that dropping an objective compares like with like."""
    more = "\n[objectives.parts]\n[[augment.part]]\nsize = 16\n"
    without, with_parts = dataset()[data.Item(0, 2)], dataset("sampler.parts=3", more=more)[data.Item(0, 2)]
    assert "pixels.part.online" in with_parts
    assert torch.equal(without["draws.scene.online"], with_parts["draws.scene.online"])


def test_a_photo_is_decoded_once_for_all_its_views(dataset, monkeypatch) -> None:
    made = dataset("sampler.parts=3", more="\n[objectives.parts]\n[[augment.part]]\nsize = 16\n")
    calls = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *given: calls.append(given[1]) or decode(*given))
    item = made[data.Item(0, 5)]
    assert calls == ["0005.png"]
    assert item["pixels.scene.online"].shape == (2, 3, 24, 24)
    assert item["pixels.part.online"].shape == (3, 3, 16, 16)


def test_what_is_wrong_with_a_file_comes_out_of_the_loader_with_its_name(dataset) -> None:
    made = dataset("source.broken=[2]", 'on_bad_image="stop"')
    assert isinstance(made[data.Item(0, 2)], data.Failure)
    batches = data.Feed(made, iter([[data.Item(0, 0), data.Item(0, 2)]]), 0, torch.device("cpu"))
    with pytest.raises(DataError, match=r"image 2 \(0002\.png\): 0002\.png is no image(.|\n)*on_bad_image = \"skip\""):
        next(batches)


def test_a_bad_image_is_replaced_by_another_one_that_is_a_function_of_its_place(dataset) -> None:
    """Always by the same, in other epochs by others, and with views of its own: it may be in the same batch."""
    good = dataset()
    several = [dataset("source.broken=[2]")[data.Item(epoch, 2)] for epoch in (0, 0, 1, 2, 3)]
    taken = [int(item["index"]) for item in several]
    assert 2 not in taken
    assert taken[0] == taken[1]
    assert len(set(taken)) > 1
    assert torch.equal(several[0]["pixels.scene.online"], several[1]["pixels.scene.online"])
    assert not torch.equal(several[0]["boxes.scene"], good[data.Item(0, taken[0])]["boxes.scene"])
    assert several[0]["bad"] == [(2, several[0]["bad"][0][1])]
    assert "image 2 (0002.png): 0002.png is no image" in several[0]["bad"][0][1]
    assert "bad" not in good[data.Item(0, 2)]


def test_in_place_of_one_that_is_bad_too_comes_the_next_try(dataset) -> None:
    first = int(dataset("source.broken=[2]")[data.Item(0, 2)]["index"])
    second = dataset(f"source.broken=[2, {first}]")[data.Item(0, 2)]
    assert [image for image, _ in second["bad"]][:2] == [2, first]
    assert int(second["index"]) not in (2, first)


def test_when_nothing_can_be_read_it_says_so_and_ends(dataset) -> None:
    made = dataset(f"source.broken={list(range(12))}")[data.Item(0, 2)]
    assert isinstance(made, data.Failure)
    assert made.message.startswith("101 images in a row cannot be used; the first: image 2 (0002.png)")


def test_a_small_image_is_bad(dataset) -> None:
    made = dataset("min_image_side=41", 'on_bad_image="stop"')[data.Item(0, 2)]
    assert made == data.Failure(
        "image 2 (0002.png): 0002.png is 48 x 40 pixels, and min_image_side = 41\n    "
        'on_bad_image = "skip" goes on without it; `sslkit data check` finds all of them'
    )
    assert isinstance(dataset("min_image_side=40")[data.Item(0, 2)], dict)


def test_proposals_outside_the_image_and_degenerate_ones_never_reach_the_sampler(dataset, monkeypatch) -> None:
    made = dataset()
    boxes = [[1, 2, 30, 20], [-9, -9, -1, -1], [50, 0, 60, 9], [5, 5, 5, 9], [np.nan, 0, 9, 9], [40, 30, 99, 99]]
    made.proposals = {3: np.array(boxes, np.float32)}
    seen = []
    sample = made.sampler.sample
    monkeypatch.setattr(made.sampler, "sample", lambda *args: seen.append(args[2]) or sample(*args))
    made[data.Item(0, 3)]
    assert seen[0].tolist() == [[1, 2, 30, 20], [40, 30, 48, 40]]


@pytest.mark.parametrize("where", ["waiting for a batch", "anywhere else", "fetching what it made"])
def test_a_loader_process_that_dies_is_told_with_what_it_had_in_hand(dataset, monkeypatch, where) -> None:
    made = dataset()
    read = made.source.read

    def dies(index: int) -> bytes:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(index)

    monkeypatch.setattr(made.source, "read", dies)
    items = iter([[data.Item(0, place)] for place in range(8)])
    words = r"loader process 1 was killed by SIGKILL, as when memory runs out; it had image 5 \(0005\.png\) in hand"
    told = pytest.raises(SslkitError, match=words)
    with told, data.Feed(made, items, 2, torch.device("cpu")) as feed:
        next(feed)
        if where == "anywhere else":  # torch tells of it wherever the main process is
            for _ in range(1000):
                time.sleep(0.02)
        if where == "fetching what it made":  # the process was there when its batch was announced
            with suppress(RuntimeError):
                while not feed.stream._workers[1].exitcode:
                    time.sleep(0.02)
            raise ConnectionResetError(104, "Connection reset by peer")
        list(feed)


def test_a_batch_is_augmented_in_the_worker_or_on_the_device_with_the_same_bits(dataset) -> None:
    made = dataset()
    items = [made[data.Item(0, place)] for place in range(4)]
    early = data.Collate(made.views, augmented=True)(items)
    raw = data.Collate(made.views, augmented=False)(items)
    assert raw["pixels.scene.online"].dtype == torch.uint8
    late = data.to_device(raw, made.views, torch.device("cpu"))
    assert early["pixels.scene.online"].dtype == torch.float32
    assert torch.equal(early["pixels.scene.online"], late["pixels.scene.online"])


def test_counts_are_averaged_over_the_batch(dataset) -> None:
    made = dataset()
    items = [made[data.Item(0, place)] for place in range(2)]
    items[0]["counts"], items[1]["counts"] = {"drawn": 1.0}, {"drawn": 4.0}
    assert data.Collate(made.views, augmented=True)(items)["counts"] == {"drawn": 2.5}


def test_boxes_are_those_that_were_cut(dataset) -> None:
    """The geometry that objectives read belongs to the pixels beside it."""
    made = dataset()
    item = made[data.Item(0, 1)]
    photo = images.decode(made.source.read(1), "x")
    assert item["size"].tolist() == [40, 48]
    cut = images.cuts(photo, item["boxes.scene"].numpy(), 24, "bicubic")
    assert np.array_equal(item["pixels.scene.online"].permute(0, 2, 3, 1).numpy(), cut)
