"""Checkpoints are written whole or not at all, and nothing in them is ever executed."""

import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sslkit.errors import DataError, SslkitError
from sslkit.storage import checkpoint, weights


def _state() -> dict[str, Any]:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return {
        "step": 7, "model": module.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(),
        "recipe": "seed = 0\n# é", "plain": [None, True, 2**70, 1.5, b"ab", (1, 2), {3, 4}, {"a": {1: -0.0}}],
        "kinds": [torch.float16, torch.device("cpu"), torch.Size([2, 3]), OrderedDict(a=1)],
        "parameter": nn.Parameter(torch.ones(2)), "half": torch.ones(3, dtype=torch.bfloat16),
    }  # fmt: skip


def test_a_saved_state_is_loaded_unchanged(tmp_path: Path) -> None:
    state = _state()
    checkpoint.save(tmp_path / "new" / "step-00000007.pt", state)
    loaded = checkpoint.load(tmp_path / "new" / "step-00000007.pt")
    assert loaded.keys() == state.keys()
    for name in ("step", "recipe", "plain", "kinds"):
        assert loaded[name] == state[name]
        assert type(loaded[name]) is type(state[name])
    for name, tensor in state["model"].items():
        assert torch.equal(loaded["model"][name], tensor)
    assert loaded["model"]._metadata == state["model"]._metadata
    assert torch.equal(
        loaded["optimizer"]["state"][0]["momentum_buffer"], state["optimizer"]["state"][0]["momentum_buffer"]
    )
    assert torch.equal(loaded["rng"], state["rng"])
    assert loaded["half"].dtype == torch.bfloat16
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["step-00000007.pt"]


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "where", "kind"),
    [
        ({"model": {"a": np.float32(1)}}, r"state\['model'\]\['a'\]", "numpy.float32"),
        ({"lists": [1, (2, Path("x"))]}, r"state\['lists'\]\[1\]\[1\]", "PosixPath"),
        ({"point": Point(1, 2)}, r"state\['point'\]", "Point"),
        ({"array": np.zeros(2)}, r"state\['array'\]", "numpy.ndarray"),
        ({"f": print}, r"state\['f'\]", "builtin_function_or_method"),
        ({"d": {frozenset({1}): 2}}, r"a key of state\['d'\]", "frozenset"),
    ],
)
def test_a_value_that_cannot_be_loaded_safely_is_refused_before_writing(
    tmp_path: Path, value: dict[str, Any], where: str, kind: str
) -> None:
    with pytest.raises(TypeError, match=f"{where} is a .*{kind}"):
        checkpoint.save(tmp_path / "a.pt", value)
    assert not list(tmp_path.iterdir())


class Evil:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_malicious_checkpoint_does_not_execute(tmp_path: Path) -> None:
    torch.save({"step": 1, "model": Evil(tmp_path / "pwned")}, tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(tmp_path / "pwned")))
    with pytest.raises(DataError, match=r"could execute code .*system"):
        checkpoint.load(tmp_path / "zip.pt")
    with pytest.raises(DataError, match="is not a complete checkpoint"):
        checkpoint.load(tmp_path / "raw.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_reported(tmp_path: Path, share: float) -> None:
    path = tmp_path / "step-1.pt"
    checkpoint.save(path, _state())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"step-1\.pt .*cut short"):
        checkpoint.load(path)


def test_a_damaged_or_foreign_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "none.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(DataError, match=r"zip\.pt is damaged"):
        checkpoint.load(tmp_path / "zip.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds a list"):
        checkpoint.load(tmp_path / "list.pt")


def test_an_archive_that_takes_more_memory_than_disk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.pt"
    torch.save({"step": 1, "model": torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in records.items():
            file.writestr(name, data)
    with pytest.raises(
        DataError, match=r"small\.pt was not loaded: its \d+ records are compressed .* claim \d{6} bytes"
    ):
        checkpoint.load(path)
    with pytest.raises(DataError, match="are compressed"):
        weights.read(path)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"format": "new", "step": 1}, "its format is 'new', not a number"),
        ({"format": 1, "step": [4]}, "does not say after which step"),
        ({"format": 1}, "does not say after which step"),
    ],
)
def test_plain_values_that_are_not_a_checkpoint_are_reported(
    tmp_path: Path, state: dict[str, Any], problem: str
) -> None:
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(DataError, match=f"not a checkpoint of sslkit: .*{problem}"):
        checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "pickled", [b"\x80\x02R.", b"\x80\x02h\x07.", b"\x80\x02}]K\x01s.", b"\x80\x02X\xff\xff\xff\x7fa."]
)
def test_a_pickle_that_breaks_its_rules_is_damaged(tmp_path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        for name, data in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}.items():
            file.writestr(f"archive/{name}", data)
    with pytest.raises(DataError, match=r"a\.pt (is damaged|was not loaded)"):
        checkpoint.load(tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt (was not loaded|cannot be read as weights)"):
        weights.read(tmp_path / "a.pt")


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"model": torch.full((1000,), 1.25)})
    data = bytearray(path.read_bytes())
    place = data.index(np.full(8, 1.25, np.float32).tobytes())
    data[place + 10] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match="checksum of .* is wrong"):
        checkpoint.load(path)


_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from sslkit.storage import checkpoint
def die(self, target):
    os.kill(os.getpid(), signal.SIGKILL)
Path.replace = die
checkpoint.save(Path(sys.argv[1]), {"step": 2, "model": torch.zeros(10)})
"""


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    checkpoint.save(path, {"step": 1})
    process = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.load(path) == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoint.latest(tmp_path) == path
    checkpoint.prune(tmp_path, 1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_is_reported_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "step-1.pt"
    checkpoint.save(path, {"step": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SslkitError, match=r"cannot write .*step-1\.pt: .*No space left"):
        checkpoint.save(path, {"step": 2})
    assert [item.name for item in tmp_path.iterdir()] == ["step-1.pt"]
    assert checkpoint.load(path) == {"step": 1}


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SslkitError, match="cannot write"):
        checkpoint.save(tmp_path / "file" / "step-1.pt", {"step": 1})


def test_latest_and_prune_compare_step_numbers(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    assert checkpoint.latest(tmp_path) is None
    names = ["step-00000900.pt", "step-00001000.pt", "step-100000000.pt", ".step-9.pt.12.part", "step-x.pt", "a.pt"]
    for name in [*names, ".newest.json.12.part"]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "step-999999999999.pt").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-100000000.pt"
    checkpoint.prune(tmp_path, 2)
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {"step-00001000.pt", "step-100000000.pt", "step-x.pt", "a.pt"}
    checkpoint.prune(tmp_path, 5)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == left
    with pytest.raises(ValueError, match="keep = 0"):
        checkpoint.prune(tmp_path, 0)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_and_every_nth_are_kept(tmp_path: Path) -> None:
    for step in range(1, 10):
        checkpoint.add(tmp_path, {"step": step}, keep=2, keep_every=4)
    assert _names(tmp_path) == ["newest.json", *(f"step-{step:08d}.pt" for step in (4, 8, 9))]
    assert json.loads((tmp_path / "newest.json").read_text())["file"] == "step-00000009.pt"


def test_a_checkpoint_counts_once_it_is_pointed_to(tmp_path: Path) -> None:
    """As after a kill between its rename and that of the pointer, or after a rollback to an older one."""
    for step in (1, 2):
        checkpoint.add(tmp_path, {"step": step}, keep=2)
    checkpoint.save(tmp_path / "step-00000003.pt", {"step": 3})
    restored = checkpoint.restore(tmp_path)
    assert restored is not None
    assert restored[1:] == ({"step": 2}, [])
    checkpoint.point(tmp_path / "step-00000001.pt")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000001.pt"
    checkpoint.prune(tmp_path, 2)
    assert _names(tmp_path) == ["newest.json", "step-00000001.pt"]


@pytest.mark.parametrize("pointer", ["", "{", "[]", '{"step": "x"}', '{"file": "step-00000002.pt"}'])
def test_a_damaged_pointer_does_no_harm(tmp_path: Path, pointer: str) -> None:
    for step in (1, 2):
        checkpoint.add(tmp_path, {"step": step}, keep=2)
    (tmp_path / "newest.json").write_text(pointer)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000002.pt"


def test_after_a_damaged_newest_one_the_one_before_is_restored(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.add(tmp_path, {"step": step}, keep=3)
    (tmp_path / "step-00000003.pt").write_bytes(b"")
    path = tmp_path / "step-00000002.pt"
    path.write_bytes(path.read_bytes()[:100])
    restored = checkpoint.restore(tmp_path)
    assert restored is not None
    assert restored[:2] == (tmp_path / "step-00000001.pt", {"step": 1})
    assert [f"step-0000000{step}.pt" in line for step, line in zip((3, 2), restored[2], strict=True)] == [True, True]
    (tmp_path / "step-00000001.pt").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"no checkpoint in .* can be loaded:\n.*3\.pt.*\n.*2\.pt.*\n.*1\.pt.*\n.*start again"
    ):
        checkpoint.restore(tmp_path)


def test_a_checkpoint_with_code_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    checkpoint.add(tmp_path, {"step": 1}, keep=2)
    with (tmp_path / "step-00000002.pt").open("wb") as file:
        torch.save({"step": 2, "x": Evil(tmp_path / "done")}, file)
    checkpoint.point(tmp_path / "step-00000002.pt")
    with pytest.raises(DataError, match="could execute code"):
        checkpoint.restore(tmp_path)
    assert not (tmp_path / "done").exists()


def test_a_newer_format_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.add(tmp_path, {"step": 1}, keep=2)
    monkeypatch.setattr(checkpoint, "FORMAT", 7)
    checkpoint.add(tmp_path, {"step": 2}, keep=2)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"format 7, and this sslkit reads up to 1: resume with the version"):
        checkpoint.restore(tmp_path)


_LIMITED = """
import resource, sys
from pathlib import Path
import torch
from sslkit.storage import checkpoint
from sslkit.errors import StorageError
folder = Path(sys.argv[1])
checkpoint.add(folder, {"step": 1, "model": torch.zeros(100)}, 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.add(folder, {"step": 2, "model": torch.zeros(100_000)}, 2)
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")
def test_when_the_disk_is_full_the_reason_is_reported_and_the_older_one_stays(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "step-00000002.pt: File too large; an older file is unchanged" in process.stdout
    assert _names(tmp_path) == ["newest.json", "step-00000001.pt"]
    assert checkpoint.load(tmp_path / "step-00000001.pt")["step"] == 1
