import os
import threading
from pathlib import Path

import pytest

from sslkit.api import no_progress
from sslkit.errors import SslkitWarning
from sslkit_images.shards import indexing as module
from sslkit_images.shards.source import Shards

from .conftest import opened, write_tar


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "t/1.tar", {"a.jpg": b"1", "a.cls": b"0"})


@pytest.fixture
def read(monkeypatch):
    """Record the tars whose headers are read."""
    calls = []

    def counted(tar, query, real=module.read_tar):
        calls.append(Path(tar.path).name)
        return real(tar, query)

    monkeypatch.setattr(module, "read_tar", counted)
    return calls


def test_a_tar_is_indexed_once_until_it_changes(tar, read, cache):
    for _ in range(2):
        assert opened(tar.parent).key(0) == "a.jpg"
    assert read == ["1.tar"]
    write_tar(tar.parent / "2.tar", {"c.jpg": b""})
    assert len(opened(tar.parent)) == 2
    assert read == ["1.tar", "2.tar"]
    write_tar(tar, {"b.jpg": b"2", "b.cls": b"0"})
    os.utime(tar, ns=(1, 1))  # as large as before
    assert opened(tar.parent).key(0) == "b.jpg"
    assert read == ["1.tar", "2.tar", "1.tar"]
    assert [path.name for path in cache.rglob("*") if path.name.startswith(".")] == []


def test_each_query_has_its_own_index(tar, read):
    opened(tar.parent)
    opened(tar.parent, labels="cls")  # read in any case
    opened(tar.parent, suffixes=(".jpg",))
    assert read == ["1.tar", "1.tar"]


def test_a_damaged_index_is_rebuilt(tar, read, cache):
    opened(tar.parent)
    (file,) = cache.rglob("*.index")
    whole = file.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"\0" * 100):
        file.write_bytes(data)
        with pytest.warns(SslkitWarning, match=r"the index of .*1\.tar is made again: .* is damaged"):
            assert opened(tar.parent).read(0) == b"1"
        assert file.read_bytes() == whole
    assert len(read) == 4


def test_without_a_cache_the_index_is_rebuilt_each_time_and_reported(tar, read, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "file"))
    with pytest.warns(SslkitWarning, match="the index of tars cannot be kept in the cache"):
        assert opened(tar.parent).read(0) == b"1"
    assert read == ["1.tar"]


def test_several_may_index_at_once(tmp_path, read, cache):
    root = write_tar(tmp_path / "t/1.tar", {f"{number}.jpg": b"" for number in range(300)}).parent
    sources = [Shards(root=root) for _ in range(4)]
    threads = [threading.Thread(target=source.prepare, args=(no_progress,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(read) <= 4
    for source in sources:
        source.open()
        assert len(source) == 300
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 1
