"""Weight files: save and read tensors without executing anything."""

from __future__ import annotations

import json
import pickle
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslkit.errors import DataError
from sslkit.files import replace_file
from sslkit.storage.checkpoint import refuse_inflating
from sslkit.storage.file_errors import first_line, refused_name, truncation_hint

_MOST_KEYS = 8
"""Number of a file's keys that an error names."""


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all; the same tensors and metadata give the same bytes.

    Args:
        path: The file to write; a missing folder is created, an existing file replaced.
        tensors: Tensors of any layout and device; those that share memory are written separately.
        metadata: Strings -> strings, stored in the file's header.

    Raises:
        StorageError: The disk is full or not writable.
    """
    from safetensors.torch import save_file

    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with replace_file(path) as part:
        save_file(plain, part, metadata=dict(metadata))
        _sort_metadata(part)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata: safetensors writes it in an order that differs from process to process."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, on the CPU, and the metadata of a safetensors file.

    Raises:
        DataError: It is missing, cut short or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise DataError(
            f"{path} is not a complete safetensors file ({first_line(error)}): {truncation_hint(path)}"
        ) from error


def read(path: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU, from safetensors or from a `torch.save` file of tensors and plain values.

    From a file with one state dict among other values, such as {"state_dict": ..., "epoch": ...}, return that one.

    Raises:
        DataError: The file is missing or damaged, would execute code, or holds no or several state dicts.
    """
    if path.suffix == ".safetensors":
        return load(path)[0]
    if not path.is_file():
        raise DataError(f"no weights at {path}")
    _require_torch_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old files; the errors below are enough
            refuse_inflating(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "reduce" not in str(error):
            raise DataError(f"{path} cannot be read as weights: it is damaged, or not from torch.save") from None
        raise DataError(
            f"{path} was not loaded: it holds more than tensors and plain values, and loading it could execute code "
            f"({refused_name(error)}). If you trust it, save its state dict alone: torch.save(model.state_dict(), ...)"
        ) from None
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path} cannot be read as weights: {first_line(error)}") from None
    return _state_dict(content, path)


def _require_torch_file(path: Path) -> None:
    """Refuse a file that does not begin as those of `torch.save` do: as an archive, or as a pickle of protocol 2 on.

    Raises:
        DataError: It begins differently.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise DataError(f"{path} is empty (0 bytes)")
    if not head.startswith((b"PK", b"\x80")) and not tarfile.is_tarfile(path):
        raise DataError(
            f"{path} is not a weights file: it begins with {head!r}; write a file in safetensors' format or from "
            "torch.save"
        )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in the content of a file: all of it, or the one table of tensors in it."""
    tables = {"": content, **content} if isinstance(content, dict) else {}
    candidates = {str(key): _tensors(table) for key, table in tables.items() if _is_state_dict(table)}
    if "" in candidates:
        return candidates[""]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if "model" in candidates and {"recipe", "optimizer"} <= content.keys():  # a checkpoint of sslkit
        return candidates["model"]
    if candidates:
        problem = f"several state dicts ({', '.join(candidates)})"
    elif isinstance(content, dict):
        problem = f"no state dict: it has the keys {', '.join(map(str, list(content)[:_MOST_KEYS]))}"
    else:
        problem = f"no state dict: it has {type(content).__name__}"
    raise DataError(f"{path} holds {problem}; save the right one to a separate file")


def _is_state_dict(table: Any) -> bool:
    return (
        isinstance(table, dict)
        and any(isinstance(value, Tensor) and value.ndim for value in table.values())
        and all(isinstance(key, str) and not isinstance(value, dict) for key, value in table.items())
    )


def _tensors(table: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in table.items() if isinstance(value, Tensor)}
