import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
from image_sources import CrashingImages, ImageFiles, SlowImages

from sslkit.api import no_progress
from sslkit.errors import DataError, SslkitWarning, StorageError, UsageError
from sslkit_proposals import build, store
from sslkit_proposals.search import find_regions
from sslkit_proposals.select import NOTHING
from sslkit_proposals.selective import DlibSelectiveSearch, SelectiveSearch
from sslkit_proposals.shards import load_shard, save_shard
from sslkit_proposals.store import Share


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD", 4)


@pytest.fixture
def proposer(tmp_path):
    return SelectiveSearch(store=tmp_path / "store", min_sides=(48, 24))


@pytest.fixture
def searched(monkeypatch):
    """Record the shapes of the images that are searched in this process."""
    shapes = []

    def counted(image, search):
        shapes.append(image.shape)
        return find_regions(image, search)

    monkeypatch.setattr(build, "find_regions", counted)
    return shapes


def everything(proposals):
    return [proposals[index].tolist() for index in range(len(proposals))]


def test_proposals_survive_the_store(make_source, proposer):
    source = make_source(6)
    assert "0 of 6 searched" in proposer.missing(source)
    with pytest.raises(DataError, match="sslkit proposals build"):
        proposer.open(source)
    proposer.build(source, no_progress, 1)
    assert proposer.missing(source) is None
    proposals = proposer.open(source)
    assert len(proposals) == 6
    for index in range(6):
        boxes = proposals[index]
        assert boxes.dtype == np.float32
        assert len(boxes)
        assert (boxes[:, 2:] - boxes[:, :2] >= 24).all()
    assert everything(pickle.loads(pickle.dumps(proposals))) == everything(proposals)
    assert isinstance(proposals.boxes, np.memmap)


def test_two_processes_find_what_one_finds(make_source, proposer, tmp_path):
    source = make_source(9)
    proposer.build(source, no_progress, 1)
    other = SelectiveSearch(store=tmp_path / "other", min_sides=(48, 24))
    other.build(source, no_progress, 2)
    assert everything(other.open(source)) == everything(proposer.open(source))
    for part in range(3):
        assert load_shard(other.store(source).path(part)).same(load_shard(proposer.store(source).path(part)))


def test_regions_of_another_search_are_mentioned(make_source, tmp_path):
    source = make_source(2)
    full, small = (SelectiveSearch(store=tmp_path / "store", working_side=side) for side in ("full", 60))
    full.build(source, no_progress, 1)
    message = small.missing(source)
    assert f'{full.store(source).folder} has regions of these images with working_side = "full"\n' in message
    assert full.missing(source) is None
    assert "has regions" not in full.missing(make_source(3))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shares_make_the_same_files_as_one_build(make_source, proposer, searched, tmp_path):
    source = make_source(18)  # five shards: two, two and one
    whole = SelectiveSearch(store=tmp_path / "whole", min_sides=(48, 24))
    whole.build(source, no_progress, 1)
    for done, index in enumerate((2, 0, 1)):
        assert proposer.missing(source) is not None, done
        proposer.build(source, no_progress, 1, Share(index, 3))
    assert proposer.missing(source) is None
    assert len(searched) == 2 * 18
    assert files(tmp_path / "store") == files(tmp_path / "whole")


def test_shares_of_two_stores_are_combined_by_copying(make_source, proposer, searched, tmp_path):
    source = make_source(10)
    elsewhere = SelectiveSearch(store=tmp_path / "elsewhere", min_sides=(48, 24))
    proposer.build(source, no_progress, 1, Share(0, 2))
    elsewhere.build(source, no_progress, 1, Share(1, 2))
    assert "4 of 10 searched" in elsewhere.missing(source)
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "store", dirs_exist_ok=True)
    proposer.build(source, no_progress, 1)
    assert len(searched) == 10
    whole = SelectiveSearch(store=tmp_path / "whole", min_sides=(48, 24))
    whole.build(source, no_progress, 1)
    assert everything(whole.open(source)) == everything(proposer.open(source))


def test_more_shares_than_there_is_work(make_source, proposer):
    source = make_source(3)
    proposer.build(source, no_progress, 1, Share(4, 5))
    assert "0 of 3 searched" in proposer.missing(source)
    proposer.build(source, no_progress, 2, Share(0, 5))
    assert len(proposer.open(source)) == 3


def test_dlib_fills_a_store_of_its_own(make_source, tmp_path):
    pytest.importorskip("dlib")
    source = make_source(5)
    other = DlibSelectiveSearch(store=tmp_path / "store", min_sides=(48, 24), working_side=60)
    other.build(source, no_progress, 2)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["selective-search-dlib"]
    assert all(len(boxes) for boxes in everything(other.open(source)))
    again = DlibSelectiveSearch(store=tmp_path / "store", min_sides=(48, 24), working_side=60, kvals=(50, 200, 3))
    assert again.missing(source) is None


def test_nothing_is_searched_twice(make_source, proposer, searched):
    source = make_source(6)
    proposer.build(source, no_progress, 1)
    stamps = [proposer.store(source).path(part).stat().st_mtime_ns for part in range(2)]
    proposer.build(source, no_progress, 1)
    assert len(searched) == 6
    assert stamps == [proposer.store(source).path(part).stat().st_mtime_ns for part in range(2)]


def test_other_filter_options_use_the_same_search(make_source, proposer, searched, tmp_path):
    source = make_source(4)
    proposer.build(source, no_progress, 1)
    few = SelectiveSearch(store=tmp_path / "store", min_sides=(24,), top=2)
    assert "0 of 4 filtered under these options" in few.missing(source)
    few.build(source, no_progress, 1)
    assert len(searched) == 4
    assert [len(few.open(source)[index]) for index in range(4)] == [2] * 4
    assert max(len(proposer.open(source)[index]) for index in range(4)) > 2


def test_a_longer_list_reuses_the_regions_of_a_shorter_one(make_source, proposer, searched):
    proposer.build(make_source(5), no_progress, 1)
    source = make_source(7)
    proposer.build(source, no_progress, 1)
    assert len(searched) == 7
    assert len(proposer.open(source)) == 7


def test_a_changed_image_is_searched_again(make_source, proposer, searched, scene):
    source = make_source(20)
    proposer.build(source, no_progress, 1)
    before = everything(proposer.open(source))
    (source.root / "005.png").write_bytes(scene(99))
    proposer.build(source, no_progress, 1)
    after = everything(proposer.open(source))
    assert len(searched) == 21
    assert [index for index in range(20) if before[index] != after[index]] == [5]


def test_equally_named_images_of_two_folders_are_kept_apart(make_source, proposer):
    one, two = make_source(3, "one"), make_source(3, "two", first_seed=50)
    proposer.build(one, no_progress, 1)
    assert proposer.missing(two) is not None
    proposer.build(two, no_progress, 1)
    assert everything(proposer.open(one)) != everything(proposer.open(two))


def test_another_order_is_another_source(make_source, proposer, searched):
    source = make_source(5)
    proposer.build(source, no_progress, 1)
    turned = make_source(5)
    turned.files.reverse()
    assert proposer.missing(turned) is not None
    proposer.build(turned, no_progress, 1)
    assert len(searched) == 5
    assert everything(proposer.open(turned)) == everything(proposer.open(source))[::-1]


def test_a_bad_image_is_listed_and_the_rest_is_built(make_source, proposer):
    source = make_source(6)
    source.files[2].write_bytes(b"not an image")
    source.files[3].unlink()
    proposer.build(source, no_progress, 1)
    proposals = proposer.open(source)
    assert [len(proposals[index]) > 0 for index in range(6)] == [True, True, False, False, True, True]
    assert proposals.rungs.tolist()[2:4] == [NOTHING, NOTHING]
    reasons = load_shard(proposer.store(source).path(0)).reasons
    assert "002.png" in reasons[2]
    assert "cannot be read" in reasons[3]


def test_a_repaired_image_is_searched_by_the_next_build(make_source, proposer, scene):
    source = make_source(20)
    source.files[5].write_bytes(b"not an image")
    proposer.build(source, no_progress, 1)
    source.files[5].write_bytes(scene(5))
    proposer.build(source, no_progress, 1)
    assert len(proposer.open(source)[5])


def test_all_images_bad_is_an_error(make_source, proposer):
    source = make_source(7)
    for file in source.files:
        file.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"none of the 7 images could be searched:\n.*000\.png[\s\S]*and 2 more"):
        proposer.build(source, no_progress, 1)


@pytest.mark.parametrize(
    ("width", "height", "mode"), [(20, 20, "RGB"), (160, 120, "L"), (3, 400, "RGB"), (90, 70, "RGBA")]
)
def test_odd_images_get_boxes_inside(make_source, proposer, scene, width, height, mode):
    source = make_source(1)
    source.files[0].write_bytes(scene(4, max(width, 9), max(height, 9), mode))
    proposer.build(source, no_progress, 1)
    boxes = proposer.open(source)[0]
    assert len(boxes)
    assert (boxes[:, 2:] <= [max(width, 9), max(height, 9)]).all()


def test_an_empty_source_can_be_built(make_source, proposer):
    source = make_source(0)
    proposer.build(source, no_progress, 1)
    assert len(proposer.open(source)) == 0


def test_a_damaged_shard_is_rebuilt(make_source, proposer, searched):
    source = make_source(6)
    proposer.build(source, no_progress, 1)
    before = everything(proposer.open(source))
    path = proposer.store(source).path(0)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(SslkitWarning, match=r"a file of regions is made again: .*000000\.npz is damaged"):
        proposer.build(source, no_progress, 1)
    assert len(searched) == 10
    assert everything(proposer.open(source)) == before


@pytest.mark.parametrize("damage", [b"", b"half", bytes(64), "cut", "missing"])
@pytest.mark.parametrize("name", ["boxes.npy", "offsets.npy", "rungs.npy"])
def test_damaged_proposals_are_told_and_built_again(make_source, proposer, searched, name, damage):
    source = make_source(6)
    proposer.build(source, no_progress, 1)
    before, images = everything(proposer.open(source)), len(searched)
    file = proposer.store(source).selected(proposer.rules) / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5] if damage == "cut" else damage)
    with pytest.warns(SslkitWarning, match="the proposals in .* are damaged .* must be built again"):
        assert "sslkit proposals build" in proposer.missing(source)
    with pytest.warns(SslkitWarning):
        proposer.build(source, no_progress, 1)
    assert everything(proposer.open(source)) == before
    assert len(searched) == images, "the regions are there"


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", '{"folder"', '{"folder": "../../elsewhere"}', '{"folder": 3}', "{}"]
)
@pytest.mark.parametrize("which", ["pointer", "search", "source"])
def test_damaged_descriptions_are_made_again(make_source, proposer, text, which):
    source = make_source(3)
    proposer.build(source, no_progress, 1)
    before, store = everything(proposer.open(source)), proposer.store(source)
    names = {"search": store.family / "search.json", "source": store.folder / "source.json"}
    file = names.get(which, store.pointer(proposer.rules))
    written = file.read_text()
    file.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SslkitWarning)
        proposer.missing(source)
        list(store.others())
        proposer.build(source, no_progress, 1)
    assert file.read_text() == written
    assert everything(proposer.open(source)) == before


@pytest.mark.parametrize("place", ["file/store", "/proc/nowhere", "/dev/null/store"])
def test_a_store_that_cannot_be_written_is_told(make_source, tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / place))
    proposer = SelectiveSearch(min_sides=(24,))
    with pytest.raises((StorageError, UsageError), match="SSLKIT_CACHE"):
        proposer.build(make_source(2), no_progress, 1)


def test_an_image_that_kills_its_process_is_named_and_the_rest_is_built(make_source, proposer):
    source = make_source(9, kind=CrashingImages)
    proposer.build(source, no_progress, 2)
    proposals = proposer.open(source)
    assert [index for index in range(9) if not len(proposals[index])] == [5]
    assert load_shard(proposer.store(source).path(1)).reasons[1].startswith("005.png: the search killed its process")


def test_progress_is_reported(make_source, proposer):
    calls = []
    proposer.build(make_source(5), lambda *call: calls.append(call), 1)
    assert [call for call in calls if call[0] == "searching images"] == [("searching images", n, 5) for n in range(6)]
    assert calls[-1] == ("selecting proposals", 5, 5)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from image_sources import SlowImages
from sslkit.api import no_progress
from sslkit_proposals import store
from sslkit_proposals.selective import SelectiveSearch

if __name__ == "__main__":
    store.SHARD = 4
    source = SlowImages(Path(sys.argv[2]))
    source.open()
    SelectiveSearch(store=Path(sys.argv[3]), min_sides=(48, 24)).build(source, no_progress, 2)
"""


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_build_is_resumed(make_source, proposer, searched, tmp_path):
    source = make_source(40, kind=SlowImages)
    script = tmp_path / "build.py"
    script.write_text(KILLED)
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, script, here, source.root, tmp_path / "store"], env=environment)
    raw = proposer.store(source).folder / "raw"
    wait_for(lambda: len(list(raw.glob("0*.npz"))) >= 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    finished = len(list(raw.glob("0*.npz")))
    assert 2 <= finished < 10
    assert f"{finished * 4} of 40 searched" in proposer.missing(source)
    wait_for(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))

    quick = ImageFiles(source.root)
    quick.open()
    proposer.build(quick, no_progress, 1)
    assert len(searched) == 40 - finished * 4
    fresh = SelectiveSearch(store=tmp_path / "fresh", min_sides=(48, 24))
    fresh.build(quick, no_progress, 1)
    assert everything(fresh.open(quick)) == everything(proposer.open(quick))


def test_shards_are_written_atomically(make_source, proposer, monkeypatch):
    source = make_source(2)
    proposer.build(source, no_progress, 1)
    path = proposer.store(source).path(0)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(StorageError, match="disk full"):
        save_shard(path, load_shard(path))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("written", ["/opt/elsewhere", "../elsewhere", "~/elsewhere"])
def test_a_recipe_cannot_choose_any_folder_to_write_to(make_source, tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    source = make_source(2)
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(DataError, match="is in neither the current folder .* nor the cache folder"):
        SelectiveSearch(store=Path(written), min_sides=(24,)).build(source, no_progress, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "work"]
    assert not Path(written).expanduser().exists()
