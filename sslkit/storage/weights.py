"""Weight files: save and read tensors without executing anything."""

from __future__ import annotations

import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslkit.errors import DataError
from sslkit.files import replace_file
from sslkit.storage.checkpoint import refuse_inflating, verify
from sslkit.storage.file_errors import first_line, refused_name, truncation_hint
from sslkit.storage.state_dicts import StateDict, choose

_ARCHIVE = b"PK"
_TORCH_FILE = (_ARCHIVE, b"\x80", b"L119547037146038801333356L")
"""How files of `torch.save` begin: as an archive, or as a pickle; one of protocol 0 or 1 with torch's own number."""
_PROTOCOLS = ("2", "3")
"""The protocols of pickle that `torch.load` reads without executing code."""
_AGAIN = "copy or download it again"


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
            f"{path} is not a complete safetensors file ({first_line(error)}): {truncation_hint(path, _AGAIN)}"
        ) from error


def read(path: Path, key: str = "", fit: Callable[[StateDict], str] = lambda _: "") -> StateDict:
    """Read a state dict, on the CPU, from safetensors or from a `torch.save` file of tensors and plain values.

    The format is recognised by how the file begins, whatever its name. From a file with one state dict among other
    values, such as {"state_dict": ..., "epoch": ...}, return that one.

    Args:
        path: The file.
        key: The state dict to read, dotted where tables are nested: "model.teacher"; "" for the only one.
        fit: Says in the list of several state dicts how well one fits the backbone.

    Raises:
        DataError: The file is missing or damaged, would execute code, or holds no state dict, none at that key, or
            without a key several.
    """
    if not path.is_file():
        raise DataError(f"no weights at {path}")
    content = load(path)[0] if _is_safetensors(path) else _read_torch_file(path)
    return choose(content, path, key, fit)


def _read_torch_file(path: Path) -> Any:
    _require_torch_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old files; the errors below are enough
            refuse_inflating(path)
            verify(path)
            with path.open("rb") as file:  # by a path's name, torch reads it as another format
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(error, path) from None
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path} cannot be read as weights: {first_line(error)}; {_AGAIN}") from None


def _refused(error: pickle.UnpicklingError, path: Path) -> DataError:
    """Return why torch did not load a file."""
    protocol = _protocol(path)
    if "GLOBAL" in str(error) or "reduce" in str(error):
        return DataError(
            f"{path} was not loaded: it holds more than tensors and plain values, and loading it could execute code "
            f"({refused_name(error)}). If you trust it, save its state dict alone: torch.save(model.state_dict(), ...)"
        )
    if protocol not in _PROTOCOLS:
        return DataError(
            f"{path} was not loaded: it was saved with pickle_protocol={protocol}, which torch cannot read without "
            "executing code. If you trust it, load it with weights_only=False and save it again without that option"
        )
    return DataError(f"{path} cannot be read as weights: it is damaged, or not from torch.save; {_AGAIN}")


def _protocol(path: Path) -> str:
    """Return the protocol of a file's pickle."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            pickles = [name for name in file.namelist() if name.rpartition("/")[2] == "data.pkl"]
            head = file.read(pickles[0])[:2] if pickles else b""
    else:
        with path.open("rb") as plain:
            head = plain.read(2)
    return str(head[1]) if head[:1] == b"\x80" and len(head) == 2 else "0 or 1"


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do: with the length of a table, and that table."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and not head.startswith(_TORCH_FILE)


def _require_torch_file(path: Path) -> None:
    """Refuse a file that does not begin as those of `torch.save` do: as an archive, or as a pickle.

    Raises:
        DataError: It begins differently, or is an archive without its end.
    """
    with path.open("rb") as file:
        head = file.read(32)
    if not head:
        raise DataError(f"{path} is empty (0 bytes)")
    if not head.startswith(_TORCH_FILE) and not tarfile.is_tarfile(path):
        raise DataError(
            f"{path} is not a weights file: it begins with {head[:16]!r}; write a file in safetensors' format or from "
            "torch.save"
        )
    if head.startswith(_ARCHIVE) and not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not a complete archive of torch.save: {truncation_hint(path, _AGAIN)}")
