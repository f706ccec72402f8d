"""Where the cache is, and how many cores there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sslkit.errors import DataError
from sslkit.folders import cache_dir, cores, require_within_reach


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("/data/sslkit", "/xdg", Path("/data/sslkit")),
        ("~/mine", "/xdg", Path("/home/somebody/mine")),
        ("", "/xdg", Path("/xdg/sslkit")),
        ("", "", Path("/home/somebody/.cache/sslkit")),
        (None, None, Path("/home/somebody/.cache/sslkit")),
    ],
)
def test_the_users_own_folder_comes_first(monkeypatch, own, xdg, expected) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for name, value in (("SSLKIT_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_dir() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_only_cores_that_the_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_what_a_recipe_names_is_written_to_in_the_current_and_the_cache_folder_alone(tmp_path, monkeypatch):
    for name in ("work", "cache", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "cache"))
    for good in (Path("store"), tmp_path / "work", tmp_path / "cache" / "a" / "b", Path("../cache/a")):
        require_within_reach(good)
    Path("link").symlink_to(tmp_path / "elsewhere")
    for bad in (Path("../elsewhere"), Path("link/store"), Path("/"), Path("~/.ssh"), tmp_path / "work2"):
        with pytest.raises(DataError, match="SSLKIT_CACHE="):
            require_within_reach(bad)
