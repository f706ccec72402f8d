"""Files that a run goes on from: written whole or not at all, and loaded without executing anything."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.errors import DataError, StorageError

FORMAT = 1
"""Of what a checkpoint holds; raised when an older sslkit could no longer go on from it."""
NEWEST = "newest.json"
"""In a folder of checkpoints: which of them is the newest complete one."""
_NAME = re.compile(r"step-(\d+)\.pt")
_ASIDE = re.compile(r"\.(step-\d+\.pt|newest\.json)\.\d+\.part")
_PLAIN = (type(None), bool, int, float, str, bytes, torch.Size, torch.dtype, torch.device, Tensor, nn.Parameter)
_LISTS = (list, tuple, set)


class DamagedError(DataError):
    """A checkpoint is missing, cut short or damaged: an older one may do."""


def add(folder: Path, state: dict[str, Any], keep: int, keep_every: int | None = None) -> Path:
    """Write `step-<state["step"]>.pt`, point to it, and delete what is not kept; see `save` and `prune`.

    A crash at any moment leaves the pointer at a complete checkpoint: the old one or the new one.
    """
    path = folder / f"step-{state['step']:08d}.pt"
    save(path, state)
    point(path)
    prune(folder, keep, keep_every)
    return path


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint aside, flush it to disk and rename it: a crash leaves the old file or the new one.

    Args:
        path: Its folder is made; an existing file is replaced.
        state: Tensors and plain Python values (numbers, strings, bytes, dicts, lists, tuples, sets).

    Raises:
        TypeError: Something in `state` could not be loaded without executing code; the message names its key path.
        StorageError: The disk is full or not writable.
    """
    _refuse_code(state, "state")
    with _aside(path) as part, part.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)  # given a path, it would not say why it failed


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, executing nothing.

    Raises:
        DamagedError: It is missing, cut short or damaged.
        DataError: It holds other things than tensors and plain values, or is of a newer format.
    """
    if not path.is_file():
        raise DamagedError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise DamagedError(f"{path} is no complete checkpoint: {_advice(path)}")
    try:
        refuse_inflating(path)
        _verify(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} was not loaded: it holds more than tensors and plain values, and loading it could execute "
            f"code ({culprit(error)}). Use only checkpoints that sslkit wrote"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way
        raise DamagedError(f"{path} is damaged ({first_line(error)}): {_advice(path)}") from error
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    written = state.pop("format", FORMAT)
    if not isinstance(written, int):
        raise DataError(f"{path} is no checkpoint of sslkit: its format is {str(written)[:80]!r}, and not a number")
    if written > FORMAT:
        raise DataError(
            f"{path} is of format {written}, and this sslkit reads up to {FORMAT}: "
            "go on with the version that wrote it (environment.json beside it names it), or with a newer one"
        )
    if not isinstance(state.get("step"), int):
        raise DataError(f"{path} is no checkpoint of sslkit: it does not say after which step it was written")
    return state


def refuse_inflating(path: Path) -> None:
    """Refuse an archive that takes more memory than disk; nothing is done where `path` is none.

    `torch.save` compresses nothing and writes each record once.

    Raises:
        DataError: A record is compressed, or all of them together are larger than the file.
        BadZipFile: The archive is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
    claimed, there = sum(record.file_size for record in records), path.stat().st_size
    if claimed > there or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise DataError(
            f"{path} was not loaded: its {len(records)} records are compressed or overlap, and claim {claimed} bytes "
            f"in a file of {there}; torch.save writes no such file"
        )


def restore(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """Load the newest checkpoint that is whole; None where there is none at all.

    Returns:
        Its path, what it holds, and what is wrong with the newer ones that were passed over.

    Raises:
        DataError: There are checkpoints and every one is damaged, or the newest whole one is refused by `load`.
    """
    wrong: list[str] = []
    for path in _candidates(folder):
        try:
            return path, load(path), wrong
        except DamagedError as error:
            wrong.append(str(error))
    if wrong:
        told = "\n    ".join(wrong)
        raise DataError(f"no checkpoint in {folder} can be loaded:\n    {told}\n    delete them to begin anew")
    return None


def latest(folder: Path) -> Path | None:
    """Return the checkpoint that the folder points to; without a pointer, that of the highest step, or None."""
    return next(iter(_candidates(folder)), None)


def _candidates(folder: Path) -> list[Path]:
    """Return what to go on from, best first: the one pointed to, then those before it.

    One behind it was written by a save that did not come to its end, or before a return to an older one.
    """
    found = sorted(_complete(folder), key=_step, reverse=True)
    pointed = _pointed(folder)
    return [path for path in found if pointed is None or _step(path) <= pointed]


def point(path: Path) -> None:
    """Make a checkpoint the one that `latest` returns.

    Raises:
        StorageError: The disk is full or not writable.
    """
    text = json.dumps({"file": path.name, "step": _step(path), "bytes": path.stat().st_size})
    with _aside(path.with_name(NEWEST)) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _pointed(folder: Path) -> int | None:
    """Return the step of the checkpoint that is pointed to; None when nothing is, or the pointer is damaged."""
    try:
        return int(json.loads((folder / NEWEST).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prune(folder: Path, keep: int, keep_every: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted `save` has left.

    Args:
        folder: Of checkpoints.
        keep: How many, up to the one that is pointed to; those behind it are deleted.
        keep_every: Those whose step is a multiple of it stay as well.

    Raises:
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: at least one checkpoint must stay")
    complete, kept = set(_complete(folder)), set(_candidates(folder)[:keep])
    if keep_every:
        kept |= {path for path in _candidates(folder) if _step(path) % keep_every == 0}
    for path in [*(complete - kept), *_named(folder, _ASIDE)]:
        path.unlink(missing_ok=True)


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all; the same tensors and metadata give the same bytes.

    Args:
        path: Its folder is made; an existing file is replaced.
        tensors: Of any layout and device; tensors that share memory are written separately.
        metadata: Strings to strings, kept in the file's header.

    Raises:
        StorageError: The disk is full or not writable.
    """
    from safetensors.torch import save_file

    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with _aside(path) as part:
        save_file(plain, part, metadata=dict(metadata))
        _sort_metadata(part)


def _sort_metadata(path: Path) -> None:
    """Put the metadata in order: safetensors writes them in an order that differs from process to process."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors, on the CPU, and metadata of a safetensors file.

    Raises:
        DataError: It is missing, cut short or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} is no complete safetensors file ({first_line(error)}): {_advice(path)}") from error


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and give it its name."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _flush(part)
        part.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"cannot write {path}: {first_line(_root(error))}; an older file is as it was") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _verify(path: Path) -> None:
    """Compare every record with its checksum, which `torch.load` does not do."""
    with zipfile.ZipFile(path) as file:
        if (bad := file.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")


def _refuse_code(value: object, where: str) -> None:
    """Refuse what is not exactly of a type that loads without executing code."""
    if type(value) in _PLAIN:
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():  # type: ignore[attr-defined]
            _refuse_code(key, f"a key of {where}")
            _refuse_code(item, f"{where}[{key!r}]")
    elif type(value) in _LISTS:
        for number, item in enumerate(value):  # type: ignore[arg-type]
            _refuse_code(item, f"{where}[{number}]")
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{where} is a {kind}: a checkpoint holds tensors and plain Python values only")


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file()]


def _complete(folder: Path) -> list[Path]:
    return _named(folder, _NAME)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _advice(path: Path) -> str:
    return f"it holds {path.stat().st_size} bytes and may have been cut short; delete it to go on from an older one"


def culprit(error: Exception) -> str:
    """Return what `torch.load` refused to execute, out of its pages of advice to execute it all the same."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else first_line(error)


def _root(error: BaseException) -> BaseException:
    """Return the operating system's error behind one of torch's, where there is one."""
    found: BaseException | None = error
    while found and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found or error


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
