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

from sslkit.errors import DataError, SslkitError

_NAME = re.compile(r"step-(\d+)\.pt")
_ASIDE = re.compile(r"\.step-\d+\.pt\.\d+\.part")
_PLAIN = (type(None), bool, int, float, str, bytes, torch.Size, torch.dtype, torch.device, Tensor, nn.Parameter)
_LISTS = (list, tuple, set)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint aside, flush it to disk and rename it: a crash leaves the old file or the new one.

    Args:
        path: Its folder is made; an existing file is replaced.
        state: Tensors and plain Python values (numbers, strings, bytes, dicts, lists, tuples, sets).

    Raises:
        TypeError: Something in `state` could not be loaded without executing code; the message names its key path.
        SslkitError: The disk is full or not writable.
    """
    _refuse_code(state, "state")
    with _aside(path) as part:
        torch.save(state, part)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, executing nothing.

    Raises:
        DataError: It is missing, cut short, damaged, or holds other things than tensors and plain values.
    """
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no complete checkpoint: {_advice(path)}")
    try:
        _verify(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} was not loaded: it holds more than tensors and plain values, and loading it could execute "
            f"code ({_culprit(error)}). Use only checkpoints that sslkit wrote"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({_first_line(error)}): {_advice(path)}") from error
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state


def latest(folder: Path) -> Path | None:
    """Return the checkpoint `step-<number>.pt` of the highest step, or None; unfinished files do not count."""
    return max(_complete(folder), key=_step, default=None)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted `save` has left.

    Raises:
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: at least one checkpoint must stay")
    old = sorted(_complete(folder), key=_step)[:-keep]
    for path in [*old, *_named(folder, _ASIDE)]:
        path.unlink(missing_ok=True)


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all; the same tensors and metadata give the same bytes.

    Args:
        path: Its folder is made; an existing file is replaced.
        tensors: Of any layout and device; tensors that share memory are written separately.
        metadata: Strings to strings, kept in the file's header.

    Raises:
        SslkitError: The disk is full or not writable.
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
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is no complete safetensors file ({_first_line(error)}): {_advice(path)}") from error


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
        raise SslkitError(f"cannot write {path}: {_first_line(error)}; an older file is as it was") from error
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


def _culprit(error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
