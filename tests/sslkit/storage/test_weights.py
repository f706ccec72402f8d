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


NET = {"w": torch.arange(600.0).reshape(30, 20), "n": torch.tensor(3)}


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.SAFETENSORS", "w.safetensors", "w"])
def test_the_format_is_recognised_whatever_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    weights.save(path, NET, {})
    assert torch.equal(weights.read(path)["w"], NET["w"])
    torch.save(NET, path)
    assert torch.equal(weights.read(path)["w"], NET["w"])


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_files_that_were_cut_short_say_so(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    for write in (lambda: weights.save(path, NET, {}), lambda: torch.save(NET, path)):
        write()
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(DataError, match=r"not a complete .* may have been cut short; copy or download it again"):
            weights.read(path)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(("protocol", "named"), [(0, "0 or 1"), (1, "0 or 1"), (4, "4"), (5, "5")])
def test_protocols_that_torch_reads_only_by_executing_code_are_named(
    tmp_path: Path, protocol: int, named: str, archive: bool
) -> None:
    path = tmp_path / "w.pth"
    torch.save(NET, path, pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
    with pytest.raises(DataError, match=f"saved with pickle_protocol={named}, which torch cannot read"):
        weights.read(path)


@pytest.mark.parametrize("place", [0, 1234, 2399])
def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "w.pth"
    torch.save(NET, path)
    content = bytearray(path.read_bytes())
    content[content.index(NET["w"].numpy().tobytes()) + place] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(DataError, match="the checksum of w/data/0 is wrong; copy or download it again"):
        weights.read(path)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    """Torch has an option that writes none."""
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this version of torch always writes them")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(NET, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(weights.read(tmp_path / "w.pth")["w"], NET["w"])
