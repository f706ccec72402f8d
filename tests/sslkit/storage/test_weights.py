"""Weight files are the same bytes for the same tensors, and damaged ones are refused."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sslkit.errors import DataError
from sslkit.storage import weights


def test_weights_are_saved_as_safetensors(tmp_path: Path) -> None:
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    tensors = {"a": conv.weight, "tied": conv.weight, "part": torch.arange(10.0)[2:6], "n": torch.tensor(3)}
    path = tmp_path / "deep" / "backbone.safetensors"
    weights.save(path, tensors, {"backbone": "torchvision/resnet18"})
    loaded, metadata = weights.load(path)
    assert metadata == {"backbone": "torchvision/resnet18"}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_the_same_weights_are_the_same_file_in_every_process(tmp_path: Path) -> None:
    """safetensors writes metadata in another order each time, and people compare hashes."""
    tensors = {"w": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}
    header = dict.fromkeys(["format", "backbone", "step", "seed", "recipe"], 'ä "x"')
    written = set()
    for number in range(12):
        path = tmp_path / f"{number}.safetensors"
        weights.save(path, tensors, header)
        written.add(path.read_bytes())
        loaded, metadata = weights.load(path)
        assert metadata == header
        assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert len(written) == 1


def _write_header(path: Path, header: dict[str, Any]) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 8]}},
        {"a": {"dtype": "OBJECT", "shape": [2], "data_offsets": [0, 8]}},
        {"__metadata__": {"a": [1]}},
    ],
)
def test_invalid_safetensors_are_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not a complete safetensors file"):
        weights.load(_write_header(tmp_path / "w.safetensors", header))


@pytest.mark.parametrize(("dtype", "shape"), [("F8_E8M0", [8]), ("F4", [16])])
def test_dtypes_that_torch_may_lack_are_reported(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, 8]}}
    with contextlib.suppress(DataError):  # a newer torch knows more dtypes
        assert weights.load(_write_header(tmp_path / "w.safetensors", header))[0]["a"].nbytes == 8


def test_weights_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match="no weights at"):
        weights.load(path)
    weights.save(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="not a complete safetensors file"):
        weights.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"w\.pt is empty \(0 bytes\)"),
        (b'seed = 0\n[source]\nuse = "folder"\n', "not a weights file: it begins with b'seed = 0"),
        (b'{"step": 1}\n', "not a weights file: it begins with"),
        (b"\x89PNG\r\n\x1a\n", "not a weights file: it begins with"),
        (b"<!DOCTYPE html>", "not a weights file: it begins with b'<!DOCTYPE html"),
        (b"version https://git-lfs.github.com/spec/v1", "it begins with b'version https"),
        (b"\x80\x02 damaged", "cannot be read as weights"),
    ],
)
def test_files_that_hold_no_weights_are_refused_by_how_they_begin(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        weights.read(path)


@pytest.mark.parametrize("archive", [True, False])
def test_both_formats_of_torch_are_read(tmp_path: Path, archive: bool) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pt", _use_new_zipfile_serialization=archive)
    assert weights.read(tmp_path / "w.pt")["a"].tolist() == [1, 1, 1]
