"""Offer files that would execute code, or take all memory, wherever sslkit loads weights or checkpoints."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from faults import apart
from faults.outcome import Part

Make = Callable[[Path, Path], None]
"""Write a hostile file to the first path; if its code is executed, it creates the second path."""
TIMEOUT_S = 60
RECIPE = """
steps = 4
batch_size = 4
[source]
use = "folder"
root = "photos"
labels = true
[sampler]
use = "two-views"
[backbone]
use = "resnet18"
width = 8
[heads.main]
projector = { use = "mlp", hidden = 16, out = 8 }
predictor = { use = "mlp", hidden = 16 }
[objectives.scene-scene]
[[augment.scene]]
size = 32
[optimizer]
use = "sgd"
base_lr = 0.1
[probes.knn]
crops = "images"
k = 1
size = 32
"""


class Calls:
    """Unpickles as the result of a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


def _touch(canary: Path) -> str:
    return f"touch {canary}"


def _python(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


# ------------------------------------------------------------------------------------------- hostile files


def _zipped(value: Callable[[Path], Any]) -> Make:
    """Write with `torch.save`, as a part of a file that looks like a checkpoint."""

    def make(path: Path, canary: Path) -> None:
        model = {"online.backbone.w": torch.zeros(3), "x": value(canary)}
        with path.open("wb") as file:
            torch.save({"format": 1, "step": 4, "model": model, "optimizer": {}}, file)

    return make


def _raw(value: Callable[[Path], Any], protocol: int = 2) -> Make:
    return lambda path, canary: path.write_bytes(pickle.dumps(value(canary), protocol)) and None


def _legacy(value: Callable[[Path], Any]) -> Make:
    """Write as `torch.save` did before it wrote archives."""

    def make(path: Path, canary: Path) -> None:
        with path.open("wb") as file:
            torch.save({"step": 4, "model": value(canary)}, file, _use_new_zipfile_serialization=False)

    return make


def _opcodes(text: Callable[[Path], bytes]) -> Make:
    """Write opcodes of a pickle by hand, in place of those of an archive."""
    return lambda path, canary: _archive(path, {"data.pkl": text(canary)})


def _archive(
    path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED, root: str = "archive"
) -> None:
    """Write an archive as `torch.save` does, member by member."""
    rest = {"version": b"3\n", "byteorder": b"little"}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {**members, **rest}.items():
            file.writestr(f"{root}/{name}", data)


def _scripted(path: Path, canary: Path) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Module(), torch.zeros(2)), str(path))


def _tar(path: Path, canary: Path) -> None:
    """Write as torch did before 0.1.10: a tar, with a member that leads out of the folder."""
    with tarfile.open(path, "w") as file:
        for name, data in (
            ("storages", pickle.dumps(1)),
            ("tensors", pickle.dumps(Calls(os.system, _touch(canary)))),
            ("pickle", pickle.dumps(Calls(os.system, _touch(canary)))),
            (f"../../../../../..{canary}", b"x"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))


def _whole_module(path: Path, canary: Path) -> None:
    """Write a module and not its state dict, with a class that is looked up by its name."""
    module = torch.nn.Linear(2, 2)
    module.hook = Calls(os.system, _touch(canary))  # type: ignore[assignment]
    torch.save(module, path)


def _by_name(path: Path, canary: Path) -> None:
    """Put an object of ours under another class' name by writing to its `__class__`."""
    state = {"__class__": Calls(os.system, _touch(canary))}
    _archive(path, {"data.pkl": pickle.dumps(Calls(OrderedDict, state=state), 2)})


def _dill(canary: Path) -> bytes:
    """Return a function as dill writes it: a code object, and `_create_function`, which makes a function of it."""
    return (
        b"cdill._dill\n_create_function\n(cdill._dill\n_load_type\n(X\x08\x00\x00\x00CodeTypetRX"
        + struct.pack("<I", len(str(canary)))
        + str(canary).encode()
        + b"tR."
    )


def _stack_global(canary: Path) -> bytes:
    """Return opcodes that name `posix.system` from the stack, and not in a GLOBAL's text."""
    command = _touch(canary).encode()
    return b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R."


def _inst(canary: Path) -> bytes:
    """Return the INST opcode of protocol 0, which calls what it names."""
    return b"(S" + repr(_touch(canary)).encode() + b"\nios\nsystem\n."


def _obj(canary: Path) -> bytes:
    """Return the OBJ opcode: a class and its arguments from the stack."""
    return b"(cos\nsystem\nS" + repr(_touch(canary)).encode() + b"\no."


def _extension(canary: Path) -> bytes:
    """Return EXT1: a global by its number in copyreg's register."""
    return b"\x80\x02\x82\x01)R."


def _persistent(canary: Path) -> bytes:
    """Return a persistent id that is a call and not a storage."""
    return b"\x80\x02(cos\nsystem\nX" + struct.pack("<I", len(_touch(canary))) + _touch(canary).encode() + b"\x85RtQ."


def _getattr_chain(canary: Path) -> bytes:
    """Return a way to `exec` through attributes of allowed globals."""
    code = _python(canary).encode()
    return (
        b"\x80\x02c__builtin__\ngetattr\nctorch\nserialization\nX\x02\x00\x00\x00os\x86RX" + struct.pack("<I", len(code))
        + code + b"\x85R."
    )  # fmt: skip


def _call(name: str, arguments: bytes) -> Callable[[Path], bytes]:
    """Return opcodes that call an allowed global with arguments that it should not get."""
    module, _, attribute = name.rpartition(".")
    return lambda _: b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n" + arguments + b"R."


def _long(number: int) -> bytes:
    data = pickle.dumps(number, 2)
    return data[2:-1]


def _tensor(size: tuple[int, ...], stride: tuple[int, ...], numel: int, data: bytes) -> dict[str, bytes]:
    """Return an archive's members: one tensor of this size over a storage that claims `numel` floats."""

    class Persistent(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if obj is marker else None

    marker = object()
    file = io.BytesIO()

    class Rebuilt:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (marker, 0, size, stride, False, OrderedDict())

    Persistent(file, 2).dump({"format": 1, "step": 4, "model": {"online.backbone.w": Rebuilt()}})
    return {"data.pkl": file.getvalue(), "data/0": data}


def _huge_strided(path: Path, canary: Path) -> None:
    """Write a tensor of 4 TB over one stored number, by a stride of 0."""
    _archive(path, _tensor((2**20, 2**20), (0, 0), 1, b"\0" * 4))


def _numbers_for_tensors(path: Path, canary: Path) -> None:
    """Write a checkpoint whose tables have numbers in place of tensors."""
    with path.open("wb") as file:
        torch.save(
            {"format": 1, "step": 4, "model": {"online.backbone.w": 1, 2: None}, "optimizer": {}, "plugins": 1}, file
        )


def _huge_claimed(path: Path, canary: Path) -> None:
    """Write a storage that claims 4 TB, and has 4 bytes."""
    _archive(path, _tensor((2**40,), (1,), 2**40, b"\0" * 4))


def _outside_storage(path: Path, canary: Path) -> None:
    """Write a tensor that reaches beyond its storage."""
    _archive(path, _tensor((10**6,), (1,), 1, b"\0" * 4))


def _bomb(path: Path, canary: Path) -> None:
    """Write 4 GB of zeros, compressed to 4 MB."""
    numel = 2**30
    members = _tensor((numel,), (1,), numel, b"")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", members["data.pkl"])
        file.writestr("archive/version", b"3\n")
        with file.open("archive/data/0", "w", force_zip64=True) as record:
            for _ in range(4 * numel // 2**24):
                record.write(bytes(2**24))


def _overlapping(path: Path, canary: Path) -> None:
    """Write an archive whose 20,000 members are one and the same record of 1 MB."""
    members = _tensor((1,), (1,), 1, b"\0" * 4)
    _archive(path, {**members, "data/1": bytes(2**20)})
    data = path.read_bytes()
    start, [total, size] = data.rindex(b"PK\x05\x06"), struct.unpack_from("<HI", data, data.rindex(b"PK\x05\x06") + 10)
    central = data[start - size : start]
    at = central.index(b"archive/data/1") - 46
    entry = central[at : at + 46 + len("archive/data/1")]
    count = 20_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, total + count, total + count, size + count * len(entry),
                      start - size, 0)  # fmt: skip
    path.write_bytes(data[: start - size] + central + entry * count + end)


def _traversal(path: Path, canary: Path) -> None:
    """Write members whose names lead out of any folder that they are unpacked to."""
    members = _tensor((1,), (1,), 1, b"\0" * 4)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**members, f"../../../../../../../..{canary}": b"x", "version": b"3\n"}.items():
            file.writestr(name if name.startswith("..") else f"archive/{name}", data)
        file.writestr(f"{canary}", b"x")
        file.writestr("archive/data.pkl", pickle.dumps(Calls(os.system, _touch(canary))))


def _newer(path: Path, canary: Path) -> None:
    with path.open("wb") as file:
        torch.save({"format": 99, "step": 4, "model": {"x": 1}}, file)


def _odd_format(path: Path, canary: Path) -> None:
    with path.open("wb") as file:
        torch.save({"format": "new", "step": "four", "model": [1]}, file)


def _wrong_kinds(path: Path, canary: Path) -> None:
    """Write a checkpoint of plain values, each of the wrong kind."""
    with path.open("wb") as file:
        torch.save({"format": 1, "step": [4], "model": "w", "optimizer": 3, "counts": None, "bad_images": 7}, file)


def _nothing_in_it(path: Path, canary: Path) -> None:
    with path.open("wb") as file:
        torch.save({"format": 1}, file)


def _deep(path: Path, canary: Path) -> None:
    """Write lists inside lists, a hundred thousand deep."""
    _archive(path, {"data.pkl": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."})


def _safetensors(header: bytes, data: bytes = b"\0" * 8, length: int | None = None) -> Make:
    written = struct.pack("<Q", len(header) if length is None else length) + header + data
    return lambda path, canary: path.write_bytes(written) and None


def _described(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def _f32(begin: int, end: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


CODE: dict[str, Make] = {
    "os.system in an archive": _zipped(lambda canary: Calls(os.system, _touch(canary))),
    "exec in an archive": _zipped(lambda canary: Calls(builtins.exec, _python(canary))),
    "eval in an archive": _zipped(lambda canary: Calls(builtins.eval, _python(canary))),
    "subprocess in an archive": _zipped(lambda canary: Calls(__import__("subprocess").Popen, ["touch", str(canary)])),
    "a key that is called": _zipped(lambda canary: {Calls(os.system, _touch(canary)): torch.zeros(1)}),
    "__import__ in an archive": _zipped(lambda canary: Calls(builtins.__import__, "antigravity")),
    "runpy in an archive": _zipped(lambda canary: Calls(__import__("runpy").run_path, str(canary))),
    "shutil in an archive": _zipped(lambda canary: Calls(shutil.copy, "/etc/hostname", str(canary))),
    "raw pickle, protocol 0": _raw(lambda canary: Calls(os.system, _touch(canary)), 0),
    "raw pickle, protocol 2": _raw(lambda canary: Calls(os.system, _touch(canary)), 2),
    "raw pickle, protocol 5": _raw(lambda canary: Calls(os.system, _touch(canary)), 5),
    "raw pickle of exec": _raw(lambda canary: Calls(builtins.exec, _python(canary)), 2),
    "legacy file": _legacy(lambda canary: Calls(os.system, _touch(canary))),
    "legacy tar with a way out": _tar,
    "a whole module": _whole_module,
    "TorchScript": _scripted,
    "__class__ in a state": _by_name,
    "dill's functions": _opcodes(_dill),
    "STACK_GLOBAL": _opcodes(_stack_global),
    "INST": _opcodes(_inst),
    "OBJ": _opcodes(_obj),
    "EXT1": _opcodes(_extension),
    "a persistent id that calls": _opcodes(_persistent),
    "getattr to exec": _opcodes(_getattr_chain),
    "numpy's reconstruct": _opcodes(_call("numpy.core.multiarray.scalar", b"(X\x01\x00\x00\x00aX\x01\x00\x00\x00bt")),
    "torch.hub": _opcodes(_call("torch.hub.load", b"X\x04\x00\x00\x00nobo\x85")),
    "names that lead out of the archive": _traversal,
}
"""Each would create its canary, or run other code, if it were unpickled."""
RESOURCES: dict[str, Make] = {
    "4 GB, compressed to 4 MB": _bomb,
    "20,000 members that overlap": _overlapping,
    "4 TB by a stride of 0": _huge_strided,
    "4 TB claimed, 4 bytes there": _huge_claimed,
    "a tensor behind its storage": _outside_storage,
    "a bytearray of 4 EB": _opcodes(_call("__builtin__.bytearray", _long(2**62) + b"\x85")),
    "a bytearray of 64 GB": _opcodes(_call("__builtin__.bytearray", _long(2**36) + b"\x85")),
    "a tensor of 64 GB": _opcodes(_call("torch.FloatTensor", _long(2**34) + b"\x85")),
    "lists, 100,000 deep": _deep,
}
"""Each would take all memory, or the stack."""
MALFORMED: dict[str, Make] = {
    "a call without arguments": _opcodes(_call("torch._utils._rebuild_tensor_v2", b")")),
    "a call of other arguments": _opcodes(_call("torch.Size", b"X\x01\x00\x00\x00a\x85")),
    "an empty stack": _opcodes(lambda _: b"\x80\x02R."),
    "memory that was never put": _opcodes(lambda _: b"\x80\x02h\x07."),
    "bytes that are no text": _opcodes(lambda _: b"\x80\x02X\x02\x00\x00\x00\xff\xfe."),
    "a string longer than its file": _opcodes(lambda _: b"\x80\x02X\xff\xff\xff\x7fa."),
    "a key that cannot be hashed": _opcodes(lambda _: b"\x80\x02}]K\x01s."),
    "a newer format": _newer,
    "a format that is no number": _odd_format,
    "other kinds of values": _wrong_kinds,
    "numbers in place of tensors": _numbers_for_tensors,
    "nothing in it": _nothing_in_it,
}
"""Each breaks a rule of its format."""
SAFETENSORS: dict[str, Make] = {
    "a pickle by the name": _raw(lambda canary: Calls(os.system, _touch(canary)), 4),
    "an archive by the name": CODE["os.system in an archive"],
    "a header of 2**63 bytes": _safetensors(b"{}", length=2**63),
    "a header of 2**64 - 1 bytes": _safetensors(b"{}", length=2**64 - 1),
    "a header of 90 MB that is not there": _safetensors(b"{}", length=90_000_000),
    "a header that is no JSON": _safetensors(b"{{{{"),
    "a header that is no text": _safetensors(b"\xff\xfe\xfd\xfc"),
    "overlapping offsets": _safetensors(_described(a=_f32(0, 8, [2]), b=_f32(4, 8, [1]))),
    "negative offsets": _safetensors(_described(a=_f32(-8, 0, [2]))),
    "offsets behind the end": _safetensors(_described(a=_f32(0, 2**40, [2**38]))),
    "offsets that go back": _safetensors(_described(a=_f32(8, 0, [2]))),
    "a shape that overflows": _safetensors(_described(a=_f32(0, 8, [2**32, 2**32]))),
    "a shape that is negative": _safetensors(_described(a=_f32(0, 8, [-2]))),
    "an unknown kind of number": _safetensors(_described(a={"dtype": "OBJECT", "shape": [2], "data_offsets": [0, 8]})),
    "a kind of number that torch may lack": _safetensors(
        _described(a={"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]})
    ),
    "half a byte each": _safetensors(_described(a={"dtype": "F4", "shape": [16], "data_offsets": [0, 8]})),
    "lists, 10,000 deep": _safetensors(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "one name twice": _safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    ),
    "metadata that are no strings": _safetensors(b'{"__metadata__":{"a":[1]}}'),
    "empty": lambda path, canary: path.write_bytes(b"") and None,
}
"""Each has a name that ends in .safetensors."""
HOSTILE = {
    **{(kind, name): make for kind, found in (("code", CODE), ("resources", RESOURCES), ("malformed", MALFORMED),
                                              ("safetensors", SAFETENSORS)) for name, make in found.items()},
}  # fmt: skip
FEW = (
    ("code", "os.system in an archive"), ("code", "raw pickle, protocol 2"), ("code", "STACK_GLOBAL"),
    ("resources", "4 TB by a stride of 0"), ("malformed", "other kinds of values"), ("safetensors", "a pickle by the name"),
)  # fmt: skip
"""The files that the test suite offers."""


# ------------------------------------------------------------------------------------------- places


class Places:
    """A stopped run, and every place of it where a file of weights is read.

    Args:
        folder: An empty folder for the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small.toml").write_text(RECIPE, encoding="utf-8")
        for number in range(12):
            photo = folder / f"photos/{number % 2}/{number}.png"
            photo.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 40), 40 + number).convert("RGB").save(photo)
        self.run, self.record = folder / "runs/small/full-s0", folder / "record"
        self._must(0, "run", "small.toml", "--stop-after", "2", "--workers", "0")
        lr = ["--set", "optimizer.base_lr=1e30", "--set", "steps=60"]
        self._must(6, "run", "small.toml", "--workers", "0", "--arm", "high", *lr)
        shutil.move(next((folder / "runs/small/high-s0").glob("diverged-*")), self.record)
        self.checkpoint = next((self.run / "checkpoints").glob("step-*.pt"))
        shutil.rmtree(self.run / "checkpoints")
        (self.run / "checkpoints").mkdir()
        self.kept = shutil.copytree(folder / "runs", folder / "kept")

    def _must(self, code: int, *arguments: str) -> None:
        ended = apart.run(arguments, self.folder)
        if ended.code != code or ended.did:
            raise AssertionError(f"{arguments} ended with {ended.code}, and did {ended.did}:\n{ended.err}")

    def commands(self) -> dict[str, tuple[Path, list[str]]]:
        """Return place -> the file that is read there, and the command that reads it."""
        run, file = str(self.run.relative_to(self.folder)), self.folder / "weights.pt"
        named = self.folder / "weights.safetensors"
        return {
            "run goes on": (self.checkpoint, ["run", "small.toml", "--workers", "0"]),
            "probe of a run's checkpoint": (self.checkpoint, ["probe", run]),
            "probe of a run's weights": (self.run / "backbone.safetensors", ["probe", run]),
            "probe of a file": (file, ["probe", file.name, "--recipe", "small.toml"]),
            "probe of a file.safetensors": (named, ["probe", named.name, "--recipe", "small.toml", "--allow-partial"]),
            "verify replay": (self.record / "before.pt", ["verify", "replay", self.record.name]),
        }

    def offer(self, place: str, make: Make, canary: Path) -> apart.Ended:
        """Put a hostile file in a place, run the command that reads it, and leave the place as it was."""
        file, command = self.commands()[place]
        make(file, canary)
        try:
            return apart.run(command, self.folder, TIMEOUT_S, canary=str(canary))
        finally:
            file.unlink()
            shutil.rmtree(self.folder / "runs")
            shutil.copytree(self.kept, self.folder / "runs")


def judge(ended: apart.Ended, file: str, canary: Path) -> str | None:
    """Say what is wrong with the answer to a hostile file; None if it was refused with a message."""
    if canary.exists():
        canary.unlink()
        return "its code was executed"
    if ended.did:
        return f"more was done than reading: {'; '.join(ended.did[:3])}"
    if ended.crashed:
        return ended.crashed
    if ended.code != 5:
        return f"exit code {ended.code} in place of 5"
    return None if file in ended.err else f"the message does not name {file}: {ended.err.strip()[-300:]}"


def campaign(folder: Path, only: Iterable[tuple[str, str]] | None = None, places: Iterable[str] | None = None) -> Part:
    """Offer every hostile file in every place.

    Args:
        folder: An empty folder.
        only: Kinds and names of `HOSTILE`; all of them by default.
        places: Names of places; all of them by default.
    """
    warnings.filterwarnings("ignore", message="Duplicate name")  # of zipfile: two records of one name are intended
    part, offered = Part("checkpoints"), Places(folder)
    canary = folder / "canary"
    seconds = peak = 0.0
    for kind, name in only or HOSTILE:
        for place in places or offered.commands():
            ended = offered.offer(place, HOSTILE[kind, name], canary)
            part.cases[kind] += 1
            seconds, peak = max(seconds, ended.seconds), max(peak, ended.peak_mb)
            if wrong := judge(ended, offered.commands()[place][0].name, canary):
                part.fault(f"{kind}: {name}", f"{place}: {wrong}", f"checkpoints.HOSTILE[{kind!r}, {name!r}]")
    part.figures = {
        "files": len(list(only or HOSTILE)), "places": list(places or offered.commands()),
        "slowest_s": round(seconds, 1), "most_memory_mb": round(peak),
    }  # fmt: skip
    return part
