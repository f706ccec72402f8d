"""The rendered scenes as a source and as COCO annotations, also after interrupted or concurrent rendering."""

import errno
import json
import os
import pickle
import shutil
import tempfile
import warnings

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from sslkit import folders
from sslkit.api import no_progress
from sslkit.boxes import to_xywh
from sslkit.errors import DataError, SslkitWarning, StorageError
from sslkit.foreign.signatures import schema
from sslkit.images import decode
from sslkit.planning.options import validate
from sslkit_images.scenes import files as scene_files
from sslkit_images.scenes import source as source_module
from sslkit_images.scenes.backgrounds import KINDS
from sslkit_images.scenes.shapes import CATEGORIES
from sslkit_images.scenes.source import SampleScenes

OPTIONS = {"images": 30, "side": 112}
pytestmark = pytest.mark.filterwarnings(  # pycocotools' compiled code, under numpy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture
def scenes():
    """Return a small opened set, rendered once by several processes."""
    source = SampleScenes(**OPTIONS)
    source.prepare(no_progress)
    source.open()
    return source


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return an empty cache folder."""
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path))
    return tmp_path


def annotations_of(scenes):
    return COCO(str(scenes.folder / "instances.json"))


def rendered_here(options, folder, chunks):
    """Render in this process, chunk by chunk; return the bytes of the files and the records."""
    folder.mkdir()
    records = [record for chunk in chunks for record in scene_files.write_scenes(folder, options.scene_options, chunk)]
    return {path.name: path.read_bytes() for path in folder.glob("*.jpg")}, records


# ------------------------------------------------------------------------------------------------- reading


def test_pycocotools_reads_every_image_and_mask(scenes):
    annotations = annotations_of(scenes)
    assert sorted(annotations.imgs) == list(range(30))
    assert [annotations.cats[number]["name"] for number in sorted(annotations.cats)] == list(CATEGORIES)
    assert len(annotations.anns) == sum(len(scenes.objects(index).labels) for index in range(30)) > 60
    for item in annotations.anns.values():
        mask = annotations.annToMask(item)
        assert mask.sum() == item["area"] > 0
        assert item["iscrowd"] == 0


def test_boxes_are_tight_around_the_visible_masks(scenes):
    annotations = annotations_of(scenes)
    for item in annotations.anns.values():
        rows, columns = np.nonzero(annotations.annToMask(item))
        left, top = columns.min(), rows.min()
        assert item["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]


def test_no_pixel_belongs_to_two_objects(scenes):
    annotations = annotations_of(scenes)
    for items in annotations.imgToAnns.values():
        assert sum(annotations.annToMask(item).astype(int) for item in items).max() == 1


def test_objects_are_those_of_the_annotations(scenes):
    annotations = annotations_of(scenes)
    for index in range(30):
        objects, items = scenes.objects(index), annotations.imgToAnns[index]
        np.testing.assert_array_equal(to_xywh(objects.boxes), np.reshape([item["bbox"] for item in items], (-1, 4)))
        names = [annotations.cats[item["category_id"]]["name"] for item in items]
        assert [scenes.categories[label] for label in objects.labels] == names
        assert objects.boxes.dtype == np.float32
        assert objects.labels.dtype == np.int64


def test_files_are_jpegs_of_the_annotated_size(scenes):
    annotations = annotations_of(scenes)
    shapes = set()
    for index in range(30):
        data = scenes.read(index)
        assert data[:3] == b"\xff\xd8\xff"
        pixels = decode(data, scenes.key(index))
        assert pixels.shape == (annotations.imgs[index]["height"], annotations.imgs[index]["width"], 3)
        assert max(pixels.shape) == 112
        assert pixels.std() > 10
        shapes.add(pixels.shape)
    assert len(shapes) > 5
    assert {height > width for height, width, _ in shapes} == {True, False}


def test_keys_are_unique_and_kinds_are_labels(scenes):
    assert len({scenes.key(index) for index in range(len(scenes))}) == len(scenes) == 30
    assert scenes.kinds == tuple(KINDS)
    labels = {scenes.label(index) for index in range(30)}
    assert len(labels) >= 5
    assert labels <= set(range(len(KINDS)))


def test_an_opened_source_reads_the_same_in_another_process(scenes):
    copy = pickle.loads(pickle.dumps(scenes))
    assert copy.read(7) == scenes.read(7)
    np.testing.assert_array_equal(copy.objects(7).boxes, scenes.objects(7).boxes)


# --------------------------------------------------------------------------------------------- determinism


def test_pixels_and_annotations_do_not_depend_on_the_processes(scenes, tmp_path):
    """Scenes from several processes equal those of this one, in chunks of other sizes and of a smaller set."""
    few = SampleScenes(**{**OPTIONS, "images": 6})
    one, records = rendered_here(few, tmp_path / "one", [range(6)])
    three, same_records = rendered_here(few, tmp_path / "three", [range(4, 6), range(2), range(2, 4)])
    assert one == three == {scenes.key(index): scenes.read(index) for index in range(6)}
    assert sorted(same_records, key=lambda record: record[0]) == records
    stored = json.loads((scenes.folder / "instances.json").read_text())["annotations"]
    again = scene_files.coco_annotations(records)["annotations"]
    assert json.loads(json.dumps(again)) == stored[: len(again)]


def test_splits_and_seeds_share_no_scene(tmp_path):
    sets = [
        rendered_here(SampleScenes(images=3, side=64, **more), tmp_path / str(number), [range(3)])[0]
        for number, more in enumerate([{}, {"split": "val"}, {"seed": 1}, {"split": "val", "seed": 1}])
    ]
    assert len({data for files in sets for data in files.values()}) == 12


def test_every_option_has_its_own_folder(cache):
    changes = [
        {},
        {"images": 5},
        {"split": "val"},
        {"seed": 1},
        {"side": 96},
        {"co_occurrence": 0.5},
        {"objects": (1, 2)},
    ]
    assert len({SampleScenes(**change).folder for change in changes}) == len(changes)


@pytest.mark.parametrize("library", [cv2, np])
def test_another_library_version_has_its_own_folder(cache, monkeypatch, library):
    ours = SampleScenes().folder
    monkeypatch.setattr(library, "__version__", "9.9.9")
    assert SampleScenes().folder != ours


# ------------------------------------------------------------------------------------------------ failures


def test_opening_before_rendering_is_an_error(cache):
    with pytest.raises(DataError, match="have not been rendered"):
        SampleScenes(images=3).open()


def test_nothing_is_missing_before_it_is_rendered(cache):
    assert SampleScenes(images=3).missing() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("a bug"), MemoryError])
def test_an_interrupted_render_leaves_nothing_and_can_be_repeated(cache, monkeypatch, error):
    scenes = SampleScenes(images=2, side=64)

    def stop(self, folder, progress):
        rendered_here(self, folder / "half", [range(1)])
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(SampleScenes, "_render", stop)
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - compared below
            scenes.prepare(no_progress)
    assert caught.type is (error if isinstance(error, type) else type(error))
    assert list(scenes.folder.parent.iterdir()) == []
    monkeypatch.setattr(SampleScenes, "_render", _in_this_process)
    scenes.prepare(no_progress)
    scenes.open()
    assert len(scenes.read(1)) > 500


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """Return the cache among temporary files, empty."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    folders.temporary_cache.cache_clear()
    yield folder / f"sslkit-{os.getuid()}"
    folders.temporary_cache.cache_clear()


@pytest.mark.parametrize("place", ["file", "file/inside", "/proc/nowhere", "/dev/null", "c" * 256])
def test_without_a_writable_cache_scenes_are_among_temporary_files(tmp_path, monkeypatch, temporary, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / place))
    monkeypatch.setattr(SampleScenes, "_render", _in_this_process)
    scenes = SampleScenes(images=2, side=64)
    with pytest.warns(SslkitWarning, match=f"the sample scenes are in {temporary}, as .* cannot be written") as told:
        scenes.prepare(no_progress)
    assert len(told) == 1
    scenes.open()
    other_rank = SampleScenes(images=2, side=64)
    other_rank.open()
    assert len(other_rank.read(1)) == len(scenes.read(1)) > 500
    monkeypatch.setattr(SampleScenes, "_render", lambda *_: pytest.fail("rendered again"))
    with pytest.warns(SslkitWarning):
        SampleScenes(images=2, side=64).prepare(no_progress)


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch, temporary):
    def full(self, folder, progress):
        rendered_here(self, folder / "half", [range(1)])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SampleScenes, "_render", full)
    with pytest.raises(StorageError, match="No space left on device.* neither .*; set SSLKIT_CACHE"):
        SampleScenes(images=2, side=64).prepare(no_progress)
    assert not [path for path in (*cache.rglob("*"), *temporary.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("damage", ["empty", "half", "fewer", "no list", "gone", "a scene is gone"])
def test_damaged_scenes_are_told_and_rendered_again(cache, monkeypatch, damage):
    monkeypatch.setattr(SampleScenes, "_render", _in_this_process)
    scenes = SampleScenes(images=2, side=64)
    scenes.prepare(no_progress)
    file = scenes.folder / "instances.json"
    whole = file.read_bytes()
    contents = {"empty": b"", "half": whole[:99], "fewer": b'{"images": [1]}', "no list": b"{}"}
    if damage in contents:
        file.write_bytes(contents[damage])
    else:
        (file if damage == "gone" else scenes.folder / scenes.key(1)).unlink()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        SampleScenes(images=2, side=64).prepare(no_progress)
    assert all("is made again" in str(item.message) for item in told)
    assert bool(told) == (damage not in ("fewer", "gone"))
    assert file.read_bytes() == whole
    assert list(scenes.folder.parent.iterdir()) == [scenes.folder]


def test_scenes_are_rendered_in_this_process_where_there_are_no_others(scenes, cache, monkeypatch):
    """As where `/dev/shm` is missing."""
    monkeypatch.setattr(source_module, "processes", lambda wanted: 0)
    monkeypatch.setattr(source_module, "ProcessPoolExecutor", None)
    alone = SampleScenes(**{**OPTIONS, "images": 3})
    alone.prepare(no_progress)
    alone.open()
    assert [alone.read(index) for index in range(3)] == [scenes.read(index) for index in range(3)]


def test_leftovers_of_a_killed_render_are_ignored(cache, monkeypatch):
    scenes = SampleScenes(images=2, side=64)
    left = scenes.folder.parent / ".part-killed"
    left.mkdir(parents=True)
    (left / "000000.jpg").write_bytes(b"half a file")
    monkeypatch.setattr(SampleScenes, "_render", _in_this_process)
    scenes.prepare(no_progress)
    scenes.open()
    assert decode(scenes.read(0), "000000.jpg").shape[2] == 3


def test_the_slower_of_two_processes_keeps_the_existing_folder(cache, monkeypatch):
    scenes = SampleScenes(images=2, side=64)

    def slower(self, folder, progress):
        _in_this_process(self, folder, progress)
        shutil.copytree(folder, self.folder)
        (self.folder / "first").touch()

    monkeypatch.setattr(SampleScenes, "_render", slower)
    scenes.prepare(no_progress)
    scenes.open()
    assert (scenes.folder / "first").exists()
    assert list(scenes.folder.parent.iterdir()) == [scenes.folder]


def test_existing_scenes_are_not_rendered_again(scenes, monkeypatch):
    monkeypatch.setattr(SampleScenes, "_render", lambda *_: pytest.fail("rendered again"))
    SampleScenes(**OPTIONS).prepare(no_progress)


def test_a_missing_file_is_named(cache, monkeypatch):
    monkeypatch.setattr(SampleScenes, "_render", _in_this_process)
    scenes = SampleScenes(images=2, side=64)
    scenes.prepare(no_progress)
    scenes.open()
    (scenes.folder / scenes.key(1)).unlink()
    with pytest.raises(DataError, match=r"000001\.jpg cannot be read"):
        scenes.read(1)


def _in_this_process(self, folder, progress):
    records = scene_files.write_scenes(folder, self.scene_options, range(self.images))
    (folder / "instances.json").write_text(json.dumps(scene_files.coco_annotations(records)))


# ------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("images", 0), ("images", 2.5), ("side", 10), ("side", 5000), ("co_occurrence", -0.1), ("co_occurrence", 1.1),
        ("split", "test"), ("seed", -1), ("objects", [4]), ("objects", [4, "many"]),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(option, value):
    _, problems = validate(schema(SampleScenes), {option: value}, ("source",))
    assert problems
    assert problems[0].key[:2] == ("source", option)


@pytest.mark.parametrize("objects", [(0, 3), (5, 4)])
def test_an_empty_range_of_objects_is_refused(objects):
    with pytest.raises(ValueError, match=rf"objects = \[{objects[0]}, {objects[1]}\]"):
        SampleScenes(objects=objects)


def test_defaults_are_valid():
    options, problems = validate(schema(SampleScenes), {}, ("source",))
    assert not problems
    assert SampleScenes(**options).folder == SampleScenes().folder
