"""Where the cache is, and how many cores there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import types
import warnings
from pathlib import Path

import pytest

from sslkit import folders
from sslkit.errors import DataError, SslkitWarning, UsageError
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


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """Be a user in no passwd file, without HOME; the folder for temporary files is `tmp_path`."""
    for name in ("SSLKIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders.temporary_cache.cache_clear()
    yield tmp_path
    folders.temporary_cache.cache_clear()


def test_without_a_home_the_cache_is_among_temporary_files(homeless):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        caches = {cache_dir(), cache_dir()}
    assert caches == {homeless / f"sslkit-{os.getuid()}"}
    assert [str(item.message)[:62] for item in told] == [f"there is no home folder, so the cache is in {homeless}"[:62]]
    assert caches.pop().stat().st_mode & 0o077 == 0, "others could put files into it"


def test_somebody_elses_folder_is_no_cache(homeless, monkeypatch):
    other = os.getuid() + 1
    (homeless / f"sslkit-{other}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.warns(SslkitWarning):
        cache = cache_dir()
    assert cache.parent == homeless
    assert cache.name != f"sslkit-{other}"


@pytest.mark.parametrize("place", ["/proc", "/dev/null", "/nowhere/at/all"])
def test_without_any_folder_there_is_a_path_that_cannot_be_written(homeless, monkeypatch, place):
    monkeypatch.setattr(tempfile, "tempdir", place)
    with pytest.warns(SslkitWarning, match="so nothing is cached; set SSLKIT_CACHE"):
        cache = cache_dir()
    with pytest.raises(OSError, match="Not a directory|exists"):
        (cache / "x").mkdir(parents=True)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file"), OSError(30, "Read-only"), ImportError("no sem_open")]
)
def test_without_shared_locks_there_are_no_helper_processes(monkeypatch, error):
    """As in containers without `/dev/shm`."""

    def lock():
        raise error

    folders._can_share_locks.cache_clear()
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: types.SimpleNamespace(Lock=lock))
    assert folders.processes(0) == 0, "nothing is asked for"
    with pytest.warns(SslkitWarning, match="no helper processes, as they cannot share locks in /dev/shm"):
        assert folders.processes(4) == 0
    assert folders.processes(8) == 0, "told once"
    monkeypatch.undo()
    folders._can_share_locks.cache_clear()
    assert folders.processes(4) == 4


@pytest.mark.parametrize("variable", ["SSLKIT_CACHE", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("folder", ["~nobody-of-that-name/cache", "~nobody-of-that-name"])
def test_an_unknown_users_home_is_told(monkeypatch, variable, folder):
    monkeypatch.delenv("SSLKIT_CACHE", raising=False)
    monkeypatch.setenv(variable, folder)
    with pytest.raises(UsageError, match=f"{variable}={folder}: the home folder ~nobody-of-that-name is unknown"):
        cache_dir()


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


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_that_starts_while_signals_are_blocked_never_gets_them(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    process = multiprocessing.get_context(method).Process(target=signal.raise_signal, args=(signal.SIGINT,))
    with warnings.catch_warnings(), folders.signals_blocked():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("signals", [(), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGINT)])
def test_signals_that_were_blocked_arrive_afterwards(signals, monkeypatch):
    arrived = []
    for number in signals or (signal.SIGINT,):
        before = signal.signal(number, lambda got, _: arrived.append(got))
        try:
            with folders.signals_blocked(*signals):
                signal.raise_signal(number)
                assert number not in arrived
            assert arrived[-1] == number
        finally:
            signal.signal(number, before)
