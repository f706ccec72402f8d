"""Labelled crops: which there are, their split, and their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslkit import images
from sslkit.api import Objects
from sslkit.errors import DataError
from sslkit.planning.recipe import ProbeTable
from sslkit.probes import crops as crops_module
from sslkit.probes.crops import collect_crops


@pytest.fixture
def dots(plugins):
    """Return a function that opens the fake source."""

    def opened(**options):
        source = plugins.find("source", "dots").cls(**options)
        source.open()
        return source

    return opened


def table(**values):
    return ProbeTable(use="nearest", **{"size": 16, **values})


def pixels(crops):
    return torch.cat(list(crops.batches()))


def boxes(count):
    return np.array([[10, 8, 34, 32]] * count, np.float32)


def test_crops_are_the_objects_with_their_labels(dots):
    crops = collect_crops(dots(images=30), table(), seed=0)
    patches = pixels(crops)
    assert patches.shape == (30, 3, 16, 16)
    assert patches.dtype == torch.uint8
    assert sorted(crops.labels.tolist()) == [0] * 15 + [1] * 15
    for crop, label in zip(patches, crops.labels, strict=True):
        assert (crop[label] == 250).all()
        assert not crop[1 - label].any()
    assert crops.categories == ("red", "green")


@pytest.mark.parametrize(("fit", "box"), [("stretch", [0, 0, 48, 40]), ("centre-crop", [6.5, 2.5, 41.5, 37.5])])
def test_whole_images_are_made_square(dots, monkeypatch, fit, box):
    """A centre crop has 224/256 of the shorter side: 35 of 40 pixels."""
    source = dots(images=8)
    monkeypatch.setattr(source, "label", lambda index: index % 2, raising=False)
    crops = collect_crops(source, table(crops="images", size=8, fit=fit), seed=0)
    image = images.decode(source.read(0), "x")
    expected = images.cuts(image, np.array([box], np.float32), 8, "bicubic")[0]
    assert any(np.array_equal(crop.permute(1, 2, 0).numpy(), expected) for crop in pixels(crops))
    assert len(crops.labels) == 8


def test_no_image_is_on_both_sides(dots, monkeypatch):
    """Objects of one image share its light and background: which would leak across the split."""
    source = dots(images=40)
    image_boxes = np.array([[10, 8, 34, 32], [0, 0, 20, 20], [5, 5, 30, 35]], np.float32)
    monkeypatch.setattr(
        source, "objects", lambda index: Objects(image_boxes, np.array([index % 2, 0, index], np.int64))
    )
    crops = collect_crops(source, table(test_share=0.5), seed=1)
    image = crops.labels.view(40, 3)[:, 2]  # the third object's label is the image
    sides = crops.test.view(40, 3)
    assert sorted(image.tolist()) == list(range(40))
    assert torch.equal(crops.images.view(40, 3)[:, 0], image)
    assert ((sides == sides[:, :1]).all(1)).all()
    assert 10 < sides[:, 0].sum() < 30


def test_the_split_is_a_function_of_the_seed(dots):
    splits = [collect_crops(dots(images=30), table(), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(splits[0].test, splits[1].test)
    assert torch.equal(splits[0].labels, splits[1].labels)
    assert not torch.equal(splits[0].test, splits[2].test)


def test_small_difficult_and_surplus_objects_are_left_out(dots, monkeypatch):
    assert len(collect_crops(dots(images=30), table(limit=7), seed=0)) == 7
    with pytest.raises(DataError, match="source 'dots' gave no labelled objects"):
        collect_crops(dots(images=30), table(min_side=25), seed=0)
    source = dots(images=30)
    hard = np.array([False, True])
    monkeypatch.setattr(source, "objects", lambda i: Objects(boxes(2), np.array([i % 2, 1 - i % 2]), hard))
    assert len(collect_crops(source, table(), seed=0)) == 30


def test_whole_images_have_the_set_of_their_objects_categories(dots, monkeypatch):
    source = dots(images=8)
    source.categories = ("red", "green", "blue")
    kinds = {0: [0, 0, 2], 1: [1], 2: [], 3: [2, 1], 4: [0], 5: [1], 6: [0], 7: [1]}
    hard = {3: [True, False], 0: [False, True, True]}

    def objects(index):
        labels = np.array(kinds[index], np.int64)
        return Objects(boxes(len(labels)), labels, np.array(hard[index]) if index in hard else None)

    monkeypatch.setattr(source, "objects", objects)
    crops = collect_crops(source, table(crops="multi-label", test_share=0.5), seed=0)
    assert crops.labels.shape == (7, 3)  # image 2 has no objects: it may not have been annotated
    rows = dict(zip(crops.images.tolist(), crops.labels.tolist(), strict=True))
    unknown = dict(zip(crops.images.tolist(), crops.ignored.tolist(), strict=True))
    assert rows[0] == [True, False, False]
    assert unknown[0] == [False, False, True]  # red is there beside a difficult red; blue only in a difficult one
    assert rows[3] == [False, True, False]
    assert unknown[3] == [False, False, True]
    assert rows[1] == [False, True, False]
    assert not any(unknown[1])


def test_a_test_source_is_tested_on_and_nothing_else(dots):
    train, test = dots(images=20), dots(images=9, first=20)
    crops = collect_crops(train, table(), 0, test)
    assert crops.test.tolist() == [False] * 20 + [True] * 9
    assert not set(crops.images[:20].tolist()) & set(crops.images[20:].tolist())
    for crop, label in zip(pixels(crops), crops.labels, strict=True):
        assert (crop[label] == 250).all()
    assert len(collect_crops(train, table(limit=5), 0, test)) == 10


def test_a_test_source_with_training_images_is_refused(dots, monkeypatch):
    """As `images = 30` of the 40 training images, without another split: each would find itself."""
    for test in (dots(images=9), dots(images=20), dots(images=300)):
        with pytest.raises(
            DataError, match=r"test_source shares images .* the same file, such as \d+\.png; name another"
        ):
            collect_crops(dots(images=20), table(), 0, test)
    partly = dots(images=300, first=6)
    monkeypatch.setattr(partly, "key", lambda index: f"{index + 6:04d}.png")
    with pytest.raises(DataError, match="of 14 images with the same name, 14 were compared, and 14 are the same file"):
        collect_crops(dots(images=20), table(), 0, partly)


def test_images_of_the_same_name_are_not_the_same_and_few_are_compared(dots, monkeypatch):
    train, test = dots(images=500), dots(images=400, first=1000)
    reads = []
    read = test.read
    monkeypatch.setattr(test, "read", lambda index: reads.append(index) or read(index))
    assert len(collect_crops(train, table(), 0, test)) == 900
    assert 50 <= len(reads) <= 64
    assert max(reads) - min(reads) > 300, "from all over the source"
    broken = dots(images=20, broken=tuple(range(20)))
    assert len(collect_crops(broken, table(), 0, dots(images=9, first=20))) == 29


def test_the_first_crops_are_those_of_a_smaller_limit(dots):
    train, test = dots(images=20), dots(images=9, first=20)
    for sources in ((train,), (train, test)):
        whole, limited = (collect_crops(sources[0], table(limit=limit), 0, *sources[1:]) for limit in (None, 8))
        first = whole.first(8)
        assert len(first) == 8 * len(sources)
        for name in ("labels", "images", "test"):
            assert torch.equal(getattr(first, name), getattr(limited, name)), name
        assert torch.equal(pixels(first), pixels(limited))
        assert whole.first(20) is whole


def test_the_first_crops_of_sets_of_labels_keep_what_is_ignored(dots, monkeypatch):
    source = dots(images=12)
    monkeypatch.setattr(
        source, "objects", lambda index: Objects(boxes(2), np.array([index % 2, 1]), np.array([index % 3 == 0, False]))
    )
    whole, limited = (collect_crops(source, table(crops="multi-label", limit=limit), 0) for limit in (None, 7))
    first = whole.first(7)
    assert first.labels.shape == (7, 2)
    assert torch.equal(first.labels, limited.labels)
    assert torch.equal(first.ignored, limited.ignored)
    assert first.ignored.any()


def test_too_few_first_crops_for_both_sides_are_refused(dots):
    with pytest.raises(DataError, match="leaves nothing to test on"):
        collect_crops(dots(images=20), table(test_share=0.1), 0).first(2)


@pytest.mark.parametrize("kind", ["objects", "multi-label"])
def test_categories_of_the_test_source_are_matched_by_name(dots, kind):
    train, test = dots(images=20), dots(images=9, first=20)
    train.categories = ("amber", "red", "green")
    test.categories = ("green", "red")
    crops = collect_crops(train, table(crops=kind), 0, test)
    labels = crops.labels[20:] if kind == "objects" else crops.labels[20:].int().argmax(1)
    swapped = [("amber", "red", "green").index(("green", "red")[i % 2]) for i in (crops.images[20:] - 20).tolist()]
    assert labels.tolist() == swapped
    test.categories = ("green", "crimson")
    with pytest.raises(DataError, match="1 categories of the test source 'dots' are not among the 3 .*: crimson"):
        collect_crops(train, table(crops=kind), 0, test)


def test_pixels_come_in_order_in_batches_and_small_sets_are_cached(dots, monkeypatch):
    source = dots(images=40)
    crops = collect_crops(source, table(), 0)
    whole = pixels(crops)
    reads = []
    monkeypatch.setattr(source, "read", lambda index: reads.append(index))
    assert torch.equal(pixels(crops), whole)
    assert not reads
    monkeypatch.undo()
    monkeypatch.setattr(crops_module, "_BATCH", 7)
    monkeypatch.setattr(crops_module, "_CACHE_BYTES", 0)
    fresh = collect_crops(dots(images=40), table(), 0)
    assert [len(batch) for batch in fresh.batches()] == [7] * 5 + [5]
    assert torch.equal(pixels(fresh), whole)
    assert fresh._cache is None


def test_few_images_are_in_memory_at_a_time(dots, monkeypatch):
    """Reading stops while nobody takes the batches."""
    source = dots(images=200)
    reads = []
    read = source.read
    monkeypatch.setattr(source, "read", lambda index: reads.append(index) or read(index))
    monkeypatch.setattr(crops_module, "_BATCH", 4)
    stream = collect_crops(source, table(), 0).batches()
    next(stream)
    assert len(reads) <= 4 + 2 * crops_module.cores() + 1
    stream.close()


def test_crops_of_an_image_that_cannot_be_read_are_black_and_marked(dots):
    crops = collect_crops(dots(images=8, broken=(3,)), table(), 0)
    assert crops.readable.all()
    patches = pixels(crops)
    assert crops.readable.tolist() == [image != 3 for image in crops.images.tolist()]
    assert not patches[~crops.readable].any()
    assert patches[crops.readable].flatten(1).any(1).all()
    [problem] = crops.unreadable
    assert problem.startswith("0003.png is not an image")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "objects",
            r"labelled objects of two .* source 'dots' gave no .*0 crops from 6 images.*use a source with labelled boxes, or",
        ),
        ("images", r"labelled images of two .* gave no labelled images .*: use a source with labelled images \(some"),
        ("multi-label", r"images with labelled objects of two .* gave no .*: use a source with labelled boxes$"),
    ],
)
def test_a_source_without_labels_is_refused_with_advice(dots, monkeypatch, kind, words):
    source = dots(images=6)
    monkeypatch.setattr(source, "objects", lambda index: Objects())
    with pytest.raises(DataError, match=words):
        collect_crops(source, table(crops=kind), 0)
    with pytest.raises(DataError, match="gave no"):
        collect_crops(dots(images=6) if kind != "images" else _labelled(dots(images=6)), table(crops=kind), 0, source)


def _labelled(source):
    source.label = lambda index: index % 2
    return source


def test_one_category_is_not_enough(dots, monkeypatch):
    source = dots(images=6)
    monkeypatch.setattr(source, "objects", lambda index: Objects(boxes(1), np.zeros(1, np.int64)))
    with pytest.raises(DataError, match="gave only one category of labelled objects"):
        collect_crops(source, table(), 0)


@pytest.mark.parametrize(("share", "side"), [(1e-6, "test"), (1 - 1e-6, "train")])
def test_an_empty_side_is_refused(dots, share, side):
    with pytest.raises(DataError, match=rf"of 6 labelled images leaves nothing to {side} on: use more images"):
        collect_crops(dots(images=6), table(test_share=share), 0)


@pytest.mark.parametrize("images", [5, 12, 40])
def test_one_image_of_each_category_is_refused(dots, monkeypatch, images):
    """Whatever is tested was never trained on."""
    source = dots(images=images)
    monkeypatch.setattr(source, "label", lambda index: index, raising=False)
    source.categories = tuple(map(str, range(images)))
    with pytest.raises(DataError, match=f"none of the {images} categories has both a training crop and a test crop"):
        collect_crops(source, table(crops="images", test_share=0.4), seed=0)


@pytest.mark.parametrize(("images", "rare"), [(8, 1), (20, 1), (30, 2)])
def test_a_single_training_category_is_refused(dots, monkeypatch, images, rare):
    """The images of the other categories happen to be on the test side."""
    source = dots(images=images)
    crops = collect_crops(source, table(test_share=0.3), seed=0)
    tested = set(crops.images[crops.test].tolist())
    others = dict(zip(sorted(tested)[:rare], range(1, rare + 1), strict=True))
    monkeypatch.setattr(source, "label", lambda index: others.get(index, 0), raising=False)
    source.categories = tuple("abcd"[: rare + 1])
    with pytest.raises(DataError, match="all training crops are of one category, so every answer would be the same"):
        collect_crops(source, table(crops="images", test_share=0.3), seed=0)


def test_categories_on_one_side_of_the_split_are_named(dots, monkeypatch):
    source = dots(images=40)
    labels = np.arange(40) % 2
    assert collect_crops(source, table(), seed=0).one_sided_categories() == ""
    first = collect_crops(source, table(crops="objects"), seed=0)
    tested = int(first.images[first.test][0])
    trained = int(first.images[~first.test][0])
    source.categories = ("red", "green", "tested", "trained")
    labels[tested], labels[trained] = 2, 3
    monkeypatch.setattr(source, "label", lambda index: int(labels[index]), raising=False)
    message = collect_crops(source, table(crops="images"), seed=0).one_sided_categories()
    assert message == (
        "of 4 categories, 1 without a test crop, not tested: trained; 1 without a training crop, never predicted: tested"
    )
