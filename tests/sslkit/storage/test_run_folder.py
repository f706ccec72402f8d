"""The run folder: its files, and which recipe may resume in it."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sslkit.errors import DataError, RecipeError
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.storage import run_folder
from sslkit.storage.identity import digest
from sslkit.storage.run_folder import RunFolder


@pytest.fixture
def planned(plugins, recipe_text):
    def planned(*sets):
        text = recipe_file.parse(recipe_text, "dots", "dots.toml", sets)
        recipe, problems = recipe_file.check_structure(text)
        assert recipe, problems
        plan, problems = make_plan(recipe, plugins)
        assert plan, problems
        return plan, text

    return planned


def test_a_folder_is_named_by_recipe_arm_and_seed() -> None:
    folder = RunFolder.of(Path("runs"), "univip_coco", "full", 3)
    assert folder.path == Path("runs/univip_coco/full-s3")


def test_the_resolved_recipe_is_a_recipe_that_resolves_to_itself(planned, plugins, tmp_path) -> None:
    plan, text = planned("optimizer.base_lr=0.25")
    folder = RunFolder(tmp_path / "run")
    folder.start(plan, text, 1, "cpu")
    written = tomllib.loads(folder.recipe.read_text())
    assert written["optimizer"]["base_lr"] == 0.25
    assert written["plugins"] == {"fake": "1.2"}
    again, problems = recipe_file.check_structure(recipe_file.read(folder.recipe))
    assert not problems
    assert make_plan(again, plugins)[0].resolved() == plan.resolved()


def test_every_session_is_recorded_with_its_command_and_versions(planned, tmp_path) -> None:
    plan, text = planned("optimizer.base_lr=0.25")
    folder = RunFolder(tmp_path / "run")
    folder.start(plan, text, 1, "cpu")
    folder.start(plan, text, 4, "cuda:0")
    first, second = folder.read("environment.json", [])
    assert first["overrides"] == ["optimizer.base_lr=0.25"]
    assert first["packages"]["torch"]
    assert first["plugins"] == {"fake": "1.2"}
    assert (second["machine"]["device"], second["machine"]["processes"]) == ("cuda:0", 4)


def test_another_recipe_is_refused_with_every_difference(planned, tmp_path) -> None:
    plan, text = planned()
    folder = RunFolder(tmp_path / "run")
    folder.refuse_other(plan.resolved())
    folder.start(plan, text, 1, "cpu")
    folder.refuse_other(plan.resolved())
    with pytest.raises(RecipeError) as caught:
        folder.refuse_other(planned("seed=4", "sampler.parts=2")[0].resolved())
    assert "seed: 3 -> 4" in str(caught.value)
    assert "sampler.parts: 0 -> 2" in str(caught.value)
    assert "--arm NAME" in str(caught.value)


def _ended(folder: RunFolder, plan, text, status: dict[str, Any]) -> RunFolder:
    folder.start(plan, text, 1, "cpu")
    folder.write("status.json", status)
    for name in ("probes.json", "bad_images.json"):
        folder.write(name, {})
    return folder


@pytest.mark.parametrize(
    "status",
    [{"state": "failed", "step": 0}, {"state": "failed", "reason": "no images"}, {"state": "stopped", "step": 0}],
)
def test_a_run_that_ended_before_its_first_step_gives_way_to_another_recipe(planned, tmp_path, status) -> None:
    plan, text = planned()
    folder = _ended(RunFolder(tmp_path / "run"), plan, text, status)
    (folder.path / "mine.txt").touch()
    folder.remove_other(plan.resolved())
    assert folder.status() == status, "the same recipe goes on"
    other = planned("seed=4")[0].resolved()
    folder.refuse_other(other)
    folder.remove_other(other)
    assert {path.name for path in folder.path.iterdir()} == {"checkpoints", "mine.txt"}


@pytest.mark.parametrize(
    ("status", "checkpoint"),
    [
        ({"state": "failed", "step": 1}, False),
        ({"state": "failed", "step": 0}, True),
        ({"state": "running", "step": 0}, False),
        ({"state": "finished", "step": 3}, False),
    ],
)
def test_a_run_that_took_a_step_or_may_take_one_keeps_its_folder(planned, tmp_path, status, checkpoint) -> None:
    plan, text = planned()
    folder = _ended(RunFolder(tmp_path / "run"), plan, text, status)
    if checkpoint:
        (folder.checkpoints / "step-00000001.pt").touch()
    other = planned("seed=4")[0].resolved()
    folder.remove_other(other)
    assert folder.status() == status
    with pytest.raises(RecipeError, match="seed: 3 -> 4"):
        folder.refuse_other(other)


@pytest.mark.parametrize("change", [{"summary": "other words"}, {"plugins": {"fake": "1.3"}}])
def test_summary_and_plugin_versions_do_not_make_another_recipe(planned, tmp_path, change) -> None:
    plan, text = planned()
    folder = RunFolder(tmp_path / "run")
    folder.start(plan, text, 1, "cpu")
    folder.refuse_other(plan.resolved() | change)


def test_when_a_probe_measures_makes_no_other_recipe_and_what_it_measures_does(planned, tmp_path) -> None:
    plan, text = planned("probes.nearest={size=16, every=2}")
    folder = RunFolder(tmp_path / "run")
    folder.start(plan, text, 1, "cpu")
    for every in ("", ", every=5"):
        other = planned(f"probes.nearest={{size=16{every}}}")[0].resolved()
        folder.refuse_other(other)
        assert digest(other) == folder.digest()
    with pytest.raises(RecipeError, match="probes.nearest.size: 16 -> 24"):
        folder.refuse_other(planned("probes.nearest={size=24, every=2}")[0].resolved())


def test_a_file_is_written_whole_or_not_at_all(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.write("status.json", {"step": 1})
    with pytest.raises(TypeError):
        folder.write("status.json", {"step": object()})
    assert folder.status() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_file_system_without_locks_does_not_refuse_a_run(tmp_path, monkeypatch) -> None:
    def lockf(file, how) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "lockf", lockf)
    with RunFolder(tmp_path).locked():
        assert not RunFolder(tmp_path).busy


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"", b"[1, 2"])
def test_a_file_that_is_damaged_is_named(tmp_path, content) -> None:
    (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(DataError, match=r"status\.json is damaged \(.+\): restore it, or move the folder away"):
        RunFolder(tmp_path).read("status.json", {})


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EISDIR, errno.ESTALE])
def test_a_file_that_cannot_be_read_is_not_taken_for_a_missing_one(tmp_path, monkeypatch, code) -> None:
    def refuse(path, **options):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(DataError, match=rf"status\.json cannot be read \({os.strerror(code)}\)"):
        RunFolder(tmp_path).read("status.json", {})


@pytest.mark.parametrize("folder", ["nowhere", "file", "loop", "a" * 300])
def test_where_no_run_can_be_nothing_is_read(tmp_path, folder) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert RunFolder(tmp_path / folder).read("status.json", {"a": 1}) == {"a": 1}
