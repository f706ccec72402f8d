"""Text of any system is read, files are written whole or not at all, and a cache that cannot be used is done without."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sslkit import files
from sslkit.errors import SslkitWarning, StorageError
from sslkit.files import EncodingError, decode, load_cache, name_aside, read_text, reason, replace_file, save_cache

ARRAYS = {"a": np.arange(1000), "b": np.array(["x", "yy"])}


def write(file) -> None:
    np.savez(file, **ARRAYS)


def read(file):
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ------------------------------------------------------------------------------------------------- writing aside


def test_names_aside_differ_in_each_call_on_every_machine(tmp_path, monkeypatch):
    """Neither the process nor the machine is in the name: containers share process ids and host names."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(socket, "gethostname", lambda: "node")
    names = {name_aside(tmp_path / "x.json").name for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"\.x\.json\.[0-9a-f]{16}\.part", name) for name in names)


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "0.npz"])
def test_a_name_that_fits_a_file_system_fits_it_aside(tmp_path, name):
    with replace_file(tmp_path / name) as part:
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failure_leaves_the_old_file_and_nothing_aside(tmp_path):
    file = tmp_path / "x"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), replace_file(file) as part:
        part.write_text("half"), 1 / 0
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file/x", "Not a directory|File exists"), ("folder", "not a regular file"), (".", "not a regular file"),
        ("b" * 256, "File name too long"), ("/proc/nowhere/x", "No such file"), ("/dev/null/x", "Not a directory|exists"),
        ("/dev/null", "not a regular file"), ("/dev/full", "not a regular file"), ("pipe", "not a regular file"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told(tmp_path, monkeypatch, place, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match=rf"cannot write .*: .*({why})"), replace_file(tmp_path / place) as part:
        part.write_text("new")


def test_a_file_system_that_cannot_flush_folders_is_no_failure(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with replace_file(tmp_path / "x") as part:
        part.write_text("whole")
    assert (tmp_path / "x").read_text() == "whole"


def test_the_reason_is_the_systems():
    error = RuntimeError("a library says something else")
    error.__cause__ = OSError(errno.ENOENT, "No such file or directory")
    assert reason(error) == "No such file or directory"
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(ValueError()) == "ValueError"


# -------------------------------------------------------------------------------------------------------- caches


def test_a_cache_keeps_what_was_written(tmp_path):
    file = tmp_path / "new" / "x.npz"
    assert load_cache(file, "the list", read) is None
    assert save_cache(file, "the list", write)
    assert (load_cache(file, "the list", read)["a"] == ARRAYS["a"]).all()
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("place", ["file/x", "folder", "c" * 256, "/proc/nowhere/x", "/dev/null/sslkit/x"])
def test_a_cache_that_cannot_be_written_is_told_and_done_without(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.warns(SslkitWarning, match="the list cannot be kept in the cache .* is made again each time") as told:
        assert not save_cache(tmp_path / place, "the list", write)
    assert len(told) == 1
    assert load_cache(tmp_path / place, "the list", read) is None


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, step):
    file = tmp_path / "x"
    monkeypatch.setattr(*{
        "open": (files.Path, "open"), "fsync": (files.os, "fsync"), "replace": (files.Path, "replace")
    }[step], no_space)  # fmt: skip
    with pytest.warns(SslkitWarning, match="No space left on device"):
        assert not save_cache(file, "the list", write)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def damaged() -> dict[str, bytes]:
    """Return what can be left of a cache file, by name."""
    import io

    whole = io.BytesIO()
    write(whole)
    data = whole.getvalue()
    flipped = bytearray(data)
    flipped[200] ^= 0xFF
    huge = data.replace(b"(1000,)", b"(10**9,", 1)
    return {
        "empty": b"", "half": data[: len(data) // 2], "a byte short": data[:-1], "flipped": bytes(flipped),
        "huge": huge, "text": b"{}", "zeros": bytes(len(data)), "pickle": b"\x80\x04N.", "html": b"<html></html>",
    }  # fmt: skip


@pytest.mark.parametrize("kind", damaged())
def test_a_damaged_cache_is_told_and_made_again(tmp_path, kind):
    file = tmp_path / "x.npz"
    file.write_bytes(damaged()[kind])
    with pytest.warns(SslkitWarning, match=r"the list is made again: .*x\.npz is damaged"):
        assert load_cache(file, "the list", read) is None
    assert save_cache(file, "the list", write)
    assert load_cache(file, "the list", read) is not None


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2", b"\xff\xfe", b'{"a": "\xc3"}'])
def test_damaged_json_is_told(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_bytes(text)
    with pytest.warns(SslkitWarning, match="damaged"):
        assert load_cache(file, "the list", lambda opened: json.loads(opened.read())) is None


def test_a_reason_is_told_once(tmp_path, recwarn):
    import warnings

    (tmp_path / "file").touch()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        keep = partial(save_cache, what="the index of a tar", write=write)
        for number in range(3):
            keep(tmp_path / "file" / f"{number}.npz")
    assert len(told) == 1


# ------------------------------------------------------------------------------------------ text

TEXT = "seed = 0\n# größer, 大\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_make_no_difference(tmp_path, encoding, ends):
    file = tmp_path / "a.toml"
    file.write_bytes(TEXT.replace("\n", ends).encode(encoding))
    assert read_text(file) == TEXT


@pytest.mark.parametrize("big", [False, True])
def test_both_byte_orders(big):
    mark = b"\xfe\xff" if big else b"\xff\xfe"
    assert decode(mark + TEXT.encode("utf-16-be" if big else "utf-16-le")) == TEXT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("seed = 0\n# größer".encode("latin-1"), r"line 2 is not UTF-8 text \(byte 0xf6\): save the file as UTF-8"),
        (b"\xef\xbb\xbfa\n\n\xff", "line 3 is not UTF-8 text"),
        ("a\nb".encode("utf-16")[:-1], "line 2 is not UTF-16-LE text"),
        ("größer".encode("gb18030"), "line 1 is not UTF-8 text"),
    ],
)
def test_another_encoding_is_told_with_its_line(data, message):
    with pytest.raises(EncodingError, match=message):
        decode(data)


def test_bytes_that_are_no_text_can_be_kept():
    kept = decode(b"\xef\xbb\xbf\xe9t\xe9\r\n", "surrogateescape")
    assert kept.encode("utf-8", "surrogateescape") == b"\xe9t\xe9\n"


def test_nothing_is_an_empty_text():
    assert decode(b"") == ""
    assert decode(b"\xef\xbb\xbf") == ""
