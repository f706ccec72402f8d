import contextlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sslkit.api import no_progress
from sslkit.errors import DataError, UsageError
from sslkit.foreign.signatures import schema
from sslkit.planning.options import validate
from sslkit_proposals import sslkit_commands, sslkit_proposers, stats, store
from sslkit_proposals.random_boxes import RandomBoxes
from sslkit_proposals.selective import DlibSelectiveSearch, SelectiveSearch
from sslkit_proposals.shares import build_share
from sslkit_proposals.sheet import contact_sheet


@pytest.fixture
def proposer(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD", 4)
    return SelectiveSearch(store=tmp_path / "store", working_side="full", min_sides=(48, 24), max_pixels=15_000)


@pytest.fixture
def run(make_source, proposer, monkeypatch):
    """Run a command on a source of six make_source, one of them broken, without the core behind it."""
    source = make_source(6)
    source.files[2].write_bytes(b"not an image")
    targets, progress = ModuleType("sslkit.targets"), ModuleType("sslkit.progress")
    targets.open_target = lambda target, sets: (source, proposer)
    progress.bar = lambda: contextlib.nullcontext(no_progress)
    monkeypatch.setitem(sys.modules, "sslkit.targets", targets)
    monkeypatch.setitem(sys.modules, "sslkit.progress", progress)
    app = typer.Typer()
    sslkit_commands(app)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def test_the_plugin_names_its_proposers():
    assert [cls.name for cls in sslkit_proposers()] == ["selective-search", "selective-search-dlib", "random-boxes"]


@pytest.mark.parametrize("proposer", [SelectiveSearch, DlibSelectiveSearch])
def test_the_working_side_is_pixels_or_full(proposer):
    model = schema(proposer)
    for side in (16, 320, "full"):
        assert validate(model, {"working_side": side}, ())[0]["working_side"] == side
    for side in (8, "ful", 32.5, None):
        _, [problem] = validate(model, {"working_side": side}, ("proposals",))
        assert (
            problem.what
            == f'working_side = {json.dumps(side)}: must be an integer number of pixels, at least 16, or "full"'
        )
        assert problem.key == ("proposals", "working_side")


def test_build_stats_and_view(run, tmp_path):
    build = run("build", "here", "--jobs", "1")
    assert build.exit_code == 0, build.exception
    assert "proposals of 6 images" in build.output
    assert "002.png" in build.output
    result = run("stats", "here", "--set", "a=1")
    assert result.exit_code == 0, result.exception
    assert "002.png" in result.output
    figures = json.loads(run("stats", "here", "--json").output)
    assert figures["images"] == 6
    view = run("view", "here", "--out", tmp_path / "deep" / "sheet.png", "--count", "3")
    assert view.exit_code == 0, view.exception
    with Image.open(tmp_path / "deep" / "sheet.png") as sheet:
        assert sheet.width > 800


def test_shares_are_built_one_by_one(run, monkeypatch):
    first = run("build", "here", "--jobs", "1", "--shard", "1/2")
    assert first.exit_code == 0, first.exception
    assert (
        "share 1/2 is done; other shares are not: the region proposals of 6 images are missing: 2 of 6" in first.output
    )
    for name, value in (("ID", 1), ("MIN", 1), ("STEP", 1), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    last = run("build", "here", "--jobs", "1", "--shard", "slurm")
    assert last.exit_code == 0, last.exception
    assert "proposals of 6 images" in last.output


def test_a_proposer_without_a_store_has_no_shares(make_source):
    with pytest.raises(UsageError, match="'random-boxes' has nothing to build"):
        build_share(make_source(1), RandomBoxes(), "0/2", no_progress, 1)


def test_import(run, tmp_path):
    path = tmp_path / "orl.json"
    path.write_text(json.dumps({"bbox": [[[0, 0, 160, 120]]] * 6}))
    result = run("import", "here", path)
    assert result.exit_code == 0, result.exception
    assert "5 images imported" in result.output
    assert "002.png" in result.output


def test_missing_proposals_are_an_error_that_names_the_command(run):
    failed = run("stats", "here")
    assert isinstance(failed.exception, DataError)
    assert "sslkit proposals build" in str(failed.exception)


def test_figures_agree_with_the_boxes(make_source, proposer):
    source = make_source(5)
    source.files[1].write_bytes(b"not an image")
    proposer.build(source, no_progress, 1)
    figures = stats.describe(source, proposer)
    proposals = proposer.open(source)
    boxes = np.concatenate([proposals[index] for index in range(5)])
    counts = [len(proposals[index]) for index in range(5)]
    assert (
        figures["boxes"] == sum(figures["shorter_side"].values()) == sum(figures["root_of_area"].values()) == len(boxes)
    )
    assert figures["per_image"]["median"] == np.median(counts)
    assert figures["per_image"]["max"] == max(counts)
    short = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    assert figures["shorter_side"]["64-95"] == ((short >= 64) & (short < 96)).sum()
    assert figures["images_with_fewer"] == sum(count < 4 for count in counts)
    assert sum(figures["min_side"].values()) == 5
    assert figures["min_side"]["unreadable"] == 1
    assert [one["key"] for one in figures["unreadable"]] == ["001.png"]
    assert figures["images_reduced"] == 4  # 160 x 120 is more than 15,000 pixels
    assert figures["raw_regions"] > figures["boxes"]


def test_figures_of_random_boxes(make_source):
    figures = stats.describe(make_source(3), RandomBoxes(count=5, min_side=24))
    assert figures["images"] == 3
    assert 3 <= figures["boxes"] <= 15
    assert list(stats.report(make_source(3), RandomBoxes(count=5, min_side=24)))
    stats.tables(figures)


def test_the_sheet_shows_every_image_with_its_boxes(make_source, proposer):
    source = make_source(5)
    source.files[4].write_bytes(b"not an image")
    proposer.build(source, no_progress, 1)
    plain = np.asarray(contact_sheet(source, [np.zeros((0, 4), np.float32)] * 5, 5))
    drawn = np.asarray(contact_sheet(source, proposer.open(source), 5))
    assert plain.shape == drawn.shape
    changed = (plain != drawn).any(axis=2)
    assert changed[26:346, 8:428].any()  # the first image
    assert changed[26:346, 436:856].any()  # the second
    assert changed.mean() < 0.5


def test_a_sheet_may_ask_for_more_images_than_the_source_has(make_source, proposer):
    source = make_source(2)
    proposer.build(source, no_progress, 1)
    assert contact_sheet(source, proposer.open(source), 12).width < 900
