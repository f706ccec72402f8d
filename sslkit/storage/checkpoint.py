"""Checkpoints: written whole or not at all, and loaded without executing anything."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.errors import DataError
from sslkit.files import replace_file
from sslkit.storage.file_errors import first_line, refused_name, truncation_hint

FORMAT = 1
"""Version of a checkpoint's contents; raised when an older sslkit could no longer resume from it."""
NEWEST = "newest.json"
"""The pointer in a folder of checkpoints: which of them is the newest complete one."""
_NAME = re.compile(r"step-(\d+)\.pt")
_LEFTOVER = re.compile(r"\.(step-\d+\.pt|newest\.json)\.[0-9a-f]+\.part")
_PLAIN = (type(None), bool, int, float, str, bytes, torch.Size, torch.dtype, torch.device, Tensor, nn.Parameter)
_LISTS = (list, tuple, set)
_OLDER = "delete it to resume from an older one"


class DamagedError(DataError):
    """A checkpoint is missing, cut short or damaged: an older one may still be usable."""


# ------------------------------------------------------------------------------------------------------ one file


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint aside, flush it to disk and rename it: a crash leaves the old file or the new one.

    Args:
        path: The file to write; a missing folder is created, an existing file replaced.
        state: Tensors and plain Python values (numbers, strings, bytes, dicts, lists, tuples, sets).

    Raises:
        TypeError: Something in `state` could not be loaded without executing code; the message names its key path.
        StorageError: The disk is full or not writable.
    """
    refuse_code(state, "state")
    with replace_file(path) as part, part.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)  # from a path, torch's error would not name the cause


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, executing nothing.

    Raises:
        DamagedError: It is missing, cut short or damaged.
        DataError: It holds more than tensors and plain values, or has a newer format.
    """
    if not path.is_file():
        raise DamagedError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise DamagedError(f"{path} is not a complete checkpoint: {truncation_hint(path, _OLDER)}")
    try:
        refuse_inflating(path)
        verify(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} was not loaded: it holds more than tensors and plain values, and loading it could execute "
            f"code ({refused_name(error)}). Use only checkpoints that sslkit wrote"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DamagedError(f"{path} is damaged ({first_line(error)}): {truncation_hint(path, _OLDER)}") from error
    return _checked(state, path)


def _checked(state: Any, path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint without its format.

    Raises:
        DataError: It is not a checkpoint of sslkit, or has a newer format.
    """
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    written = state.pop("format", FORMAT)
    if not isinstance(written, int):
        raise DataError(f"{path} is not a checkpoint of sslkit: its format is {str(written)[:80]!r}, not a number")
    if written > FORMAT:
        raise DataError(
            f"{path} has format {written}, and this sslkit reads up to {FORMAT}: resume with the version that "
            "wrote it (environment.json in the run's folder names it), or with a newer one"
        )
    if not isinstance(state.get("step"), int):
        raise DataError(f"{path} is not a checkpoint of sslkit: it does not say after which step it was written")
    return state


def refuse_inflating(path: Path) -> None:
    """Refuse an archive that takes more memory than disk; do nothing if `path` is not an archive.

    `torch.save` compresses nothing and writes each record once.

    Raises:
        DataError: A record is compressed, or all of them together are larger than the file.
        BadZipFile: The archive is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
    claimed, size = sum(record.file_size for record in records), path.stat().st_size
    if claimed > size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise DataError(
            f"{path} was not loaded: its {len(records)} records are compressed or overlap, and claim {claimed} bytes "
            f"in a file of {size}; torch.save does not write such files"
        )


def verify(path: Path) -> None:
    """Compare every record with its checksum, which `torch.load` does not do; do nothing if `path` is not an archive.

    Raises:
        BadZipFile: A checksum is wrong, or the archive is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        written = any(record.CRC for record in file.infolist())  # torch can be told to write none
        if written and (bad := file.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")


def refuse_code(value: object, path: str) -> None:
    """Refuse a value unless its exact type loads without executing code.

    Raises:
        TypeError: It would not; the message names its key path.
    """
    if type(value) in _PLAIN:
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():  # type: ignore[attr-defined]
            refuse_code(key, f"a key of {path}")
            refuse_code(item, f"{path}[{key!r}]")
    elif type(value) in _LISTS:
        for number, item in enumerate(value):  # type: ignore[arg-type]
            refuse_code(item, f"{path}[{number}]")
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{path} is a {kind}: a checkpoint holds tensors and plain Python values only")


# -------------------------------------------------------------------------------------------------------- a folder


def add(folder: Path, state: dict[str, Any], keep: int, keep_every: int | None = None) -> Path:
    """Write `step-<state["step"]>.pt`, point to it, and delete older ones; see `save` and `prune`.

    A crash at any moment leaves the pointer at a complete checkpoint: the old one or the new one.
    """
    path = folder / f"step-{state['step']:08d}.pt"
    save(path, state)
    point(path)
    prune(folder, keep, keep_every)
    return path


def restore(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """Load the newest checkpoint that is not damaged; return None if the folder has none.

    Returns:
        Its path, its state, and what is wrong with each newer checkpoint that was skipped.

    Raises:
        DataError: Every checkpoint is damaged, or `load` refuses the newest one that is not.
    """
    wrong: list[str] = []
    for path in _candidates(folder):
        try:
            return path, load(path), wrong
        except DamagedError as error:
            wrong.append(str(error))
    if wrong:
        reasons = "\n    ".join(wrong)
        raise DataError(f"no checkpoint in {folder} can be loaded:\n    {reasons}\n    delete them to start again")
    return None


def latest(folder: Path) -> Path | None:
    """Return the checkpoint that the folder points to; without a pointer, the one with the highest step, or None."""
    return next(iter(_candidates(folder)), None)


def _candidates(folder: Path) -> list[Path]:
    """Return the checkpoints to resume from, best first: the one pointed to, then those before it.

    A checkpoint after the pointer was written by a save that was interrupted, or before a rollback to an older one.
    """
    paths = sorted(_complete(folder), key=step_of, reverse=True)
    pointed = _pointed(folder)
    return [path for path in paths if pointed is None or step_of(path) <= pointed]


def point(path: Path) -> None:
    """Make a checkpoint the one that `latest` returns.

    Raises:
        StorageError: The disk is full or not writable.
    """
    text = json.dumps({"file": path.name, "step": step_of(path), "bytes": path.stat().st_size})
    with replace_file(path.with_name(NEWEST)) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _pointed(folder: Path) -> int | None:
    """Return the step of the checkpoint pointed to; None if the pointer is missing or damaged."""
    try:
        return int(json.loads((folder / NEWEST).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prune(folder: Path, keep: int, keep_every: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints, and the leftovers of an interrupted `save`.

    Args:
        folder: The folder of checkpoints.
        keep: Number of checkpoints to keep, up to the one pointed to; those after it are deleted.
        keep_every: Also keep those whose step is a multiple of it.

    Raises:
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: at least one checkpoint must stay")
    candidates = _candidates(folder)
    staying = set(candidates[:keep])
    if keep_every:
        staying |= {path for path in candidates if step_of(path) % keep_every == 0}
    for path in [*(set(_complete(folder)) - staying), *_files(folder, _LEFTOVER)]:
        path.unlink(missing_ok=True)


def _files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file()]


def _complete(folder: Path) -> list[Path]:
    return _files(folder, _NAME)


def step_of(path: Path) -> int:
    """Return the step that a checkpoint was written after, from its name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
