"""Train on damaged image files of every kind among good ones, and run `sslkit data check` on them."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from faults import apart
from faults.outcome import Part
from sslkit import hookimpl
from sslkit.api import Proposals, Proposer, Sample, ViewSampler
from sslkit.boxes import within
from sslkit.plugins import Owner, Plugins

MIN_SIDE = 8
TIMEOUT_S = 1800
_MOST = 500_000_000
"""Pixels of the largest image that is decoded, according to the documentation."""
RECIPE = f"""
epochs = 1
batch_size = 16
on_bad_image = "skip"
max_bad_images = 1000000
max_bad_share = 1.0
min_image_side = {MIN_SIDE}
[source]
use = "folder"
root = "photos"
[proposals]
use = "random-boxes"
min_side = 4
[sampler]
use = "two-views"
[backbone]
use = "resnet18"
width = 8
[heads.main]
projector = {{ use = "mlp", hidden = 8, out = 4 }}
predictor = {{ use = "mlp", hidden = 8 }}
[objectives.scene-scene]
[[augment.scene]]
size = 16
[optimizer]
use = "sgd"
base_lr = 0.01
"""


@dataclass(frozen=True)
class Broken:
    """A file and what is known of it from its making.

    Attributes:
        kind: The kind of damage.
        name: Its path below the folder of images.
        usable: Whether it can be decoded; None if `decodes` decides.
    """

    kind: str
    name: str
    usable: bool | None


# ------------------------------------------------------------------------------------------- making files


def photo(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Draw something with smooth parts and edges, like a photograph."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / rng.uniform(3, 20) + columns / rng.uniform(3, 20)) for _ in range(3)]
    pixels = 127 + 90 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    pixels[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "a.jpg": ("JPEG", {"quality": 85}),
    "b.jpg": ("JPEG", {"progressive": True, "quality": 70}),
    "c.png": ("PNG", {}),
    "d.webp": ("WEBP", {"quality": 70}),
    "e.bmp": ("BMP", {}),
    "f.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "g.tiff": ("TIFF", {}),
    "h.gif": ("GIF", {}),
}
"""Suffix -> format that Pillow writes."""


def _png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _resized_header(data: bytes, format_: str, side: int) -> bytes:
    """Return a small file whose header claims `side` x `side` pixels."""
    if format_ == "BMP":
        return data[:18] + struct.pack("<ii", side, side) + data[26:]
    if format_ == "GIF":
        return data[:6] + struct.pack("<HH", min(side, 65535), min(side, 65535)) + data[10:]
    at = data.index(b"\xff\xc0") + 5  # the frame of a baseline JPEG: height, width
    return data[:at] + struct.pack(">HH", min(side, 65535), min(side, 65535)) + data[at + 4 :]


def _truncated(rng: random.Random, data: bytes, name: str) -> tuple[bytes, None]:
    return data[: rng.randint(1, len(data) - 1)], None


def _flipped(rng: random.Random, data: bytes, name: str) -> tuple[bytes, None]:
    made = bytearray(data)
    for _ in range(rng.choice([1, 3, 20, 200])):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made), None


def _hole(rng: random.Random, data: bytes, name: str) -> tuple[bytes, None]:
    """Fill a part with zeros, like a disk that has lost a block."""
    start = rng.randrange(len(data))
    size = min(rng.choice([64, 512, 4096]), len(data) - start)
    return data[:start] + bytes(size) + data[start + size :], None


def _header_only(rng: random.Random, data: bytes, name: str) -> tuple[bytes, None]:
    return data[: rng.randint(1, 40)], None


def _empty(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    return b"", False


def _text(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    texts = ["<html><body>404 Not Found</body></html>", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
             "hello", '{"error": "denied"}', "\0" * 100]  # fmt: skip
    return rng.choice(texts).encode(), False


def _noise(rng: random.Random, data: bytes, name: str) -> tuple[bytes, None]:
    return rng.randbytes(rng.randint(1, 2000)), None


def _postscript(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    """Write PostScript, for which Pillow would start another program."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n", False


def _too_small(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    format_, options = FORMATS["c.png" if name.endswith(".png") else "a.jpg"]
    size = rng.choice([(1, 1), (MIN_SIDE - 1, 50), (50, MIN_SIDE - 1), (1, 300)])
    return encoded(Image.new("RGB", size, (9, 99, 199)), format_, **options), False


def _bomb(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    """Claim more pixels than may be decoded, in a file of some kilobytes."""
    side = rng.choice([23_000, 65_000, 2**31 - 1])
    which = rng.choice(["PNG", "BMP", "GIF", "JPEG"])
    if which == "PNG":
        return _png(side, side, zlib.compress(bytes(2**20), 9)), False
    small = encoded(Image.new("RGB", (16, 16)), which)
    return _resized_header(small, which, side), False


def _text_bomb(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    """Write a PNG with a compressed text of 200 MB before its pixels."""
    whole = encoded(Image.new("RGB", (32, 32)), "PNG")
    body = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return whole[:33] + chunk + whole[33:], False


def _other_ending(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    """Write a format that differs from the suffix: it can be used."""
    format_, options = FORMATS["c.png" if not name.endswith(".png") else "a.jpg"]
    return encoded(photo(np.random.default_rng(rng.randrange(2**32)), 40, 50), format_, **options), True


def _odd(rng: random.Random, data: bytes, name: str) -> tuple[bytes, bool]:
    """Write one of the unusual kinds of image that can be used."""
    image = photo(np.random.default_rng(rng.randrange(2**32)), 40, 50)
    grey = np.asarray(image.convert("L"))
    exif = Image.Exif()
    exif[0x0112] = rng.randint(1, 8)
    made: list[Callable[[], bytes]] = [
        lambda: encoded(image.convert("CMYK"), "JPEG"),
        lambda: encoded(image.convert("L"), "JPEG"),
        lambda: encoded(image.convert("YCbCr"), "JPEG"),
        lambda: encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        lambda: encoded(Image.fromarray(grey.astype(np.int32) * 257), "TIFF"),
        lambda: encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
        lambda: encoded(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        lambda: encoded(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=3),
        lambda: encoded(image.convert("1"), "PNG"),
        lambda: encoded(image.convert("LA"), "PNG"),
        lambda: encoded(image.convert("RGBA"), "PNG"),
        lambda: encoded(image.convert("RGBA"), "WEBP"),
        lambda: encoded(image, "PNG", transparency=(1, 2, 3)),
        lambda: encoded(image.convert("LAB"), "TIFF"),
        lambda: encoded(image, "JPEG", exif=exif),
        lambda: encoded(image, "GIF", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)]),
        lambda: encoded(image, "TIFF", compression="jpeg"),
        lambda: encoded(image, "JPEG", comment=b"x" * 60_000),
    ]
    return rng.choice(made)(), True


DAMAGE: dict[str, tuple[int, Callable[[random.Random, bytes, str], tuple[bytes, bool | None]]]] = {
    "cut short": (30, _truncated), "bits flipped": (20, _flipped), "a block of zeros": (10, _hole),
    "a few bytes of a header": (6, _header_only), "zero bytes": (5, _empty), "text": (5, _text), "random bytes": (4, _noise),
    "PostScript": (1, _postscript), "too small": (5, _too_small), "decompression bomb": (5, _bomb),
    "compressed text of 200 MB": (0, _text_bomb), "another format than the name's": (4, _other_ending),
    "unusual, and usable": (10, _odd),
}  # fmt: skip
"""Kind -> its share of the files that are damaged at random, and the function that damages them."""
SPECIAL = (
    "a folder",
    "a named pipe",
    "a link to nothing",
    "a link in a circle",
    "a link to a device",
    "an input/output error",
    "a socket",
    "no permission",
    "an odd name",
)


def make(folder: Path, seed: int, damaged: int, good: int) -> list[Broken]:
    """Fill a folder, and return its files; the order of the names mixes good and damaged ones."""
    folder.mkdir(parents=True)
    rng, drawn = random.Random(seed), np.random.default_rng(seed)
    kinds = ["good"] * good + ["compressed text of 200 MB"] + _shares(damaged - 1 - len(SPECIAL))
    rng.shuffle(kinds)
    made = []
    for number, kind in enumerate(kinds):
        ending = sorted(FORMATS)[rng.randrange(len(FORMATS))]
        format_, options = FORMATS[ending]
        data = encoded(photo(drawn, rng.randint(16, 90), rng.randint(16, 90)), format_, **options)
        name, usable = f"{number:05d}{ending}", True
        if kind != "good":
            data, usable = DAMAGE[kind][1](rng, data, name)  # type: ignore[assignment]
        (folder / name).write_bytes(data)
        made.append(Broken(kind, name, usable))
    return made + _special(folder)


def _shares(count: int) -> list[str]:
    """Return `count` kinds of damage, by their shares, each at least once where there is room."""
    each = [kind for kind, (share, _) in DAMAGE.items() for _ in range(share)]
    once = [kind for kind, (share, _) in DAMAGE.items() if share]
    return (once + [each[number * 11 % len(each)] for number in range(count)])[:count]


def _special(folder: Path) -> list[Broken]:
    """Create entries with the name of an image that are not regular files."""
    import socket

    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "nothing.jpg").symlink_to("nowhere.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "endless.jpg").symlink_to("/dev/zero")
    (folder / "failing.jpg").symlink_to("/proc/self/mem")  # a regular file; reading it is an input/output error
    here = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:  # its path may be 108 bytes long
        bound.bind(f"/proc/self/fd/{here}/socket.jpg")
    os.close(here)
    (folder / "denied.jpg").write_bytes(b"")
    (folder / "denied.jpg").write_bytes(encoded(Image.new("RGB", (30, 30)), "JPEG"))
    (folder / "denied.jpg").chmod(0)
    odd = os.fsdecode(b"odd \xff\xe9\n.jpg")
    (folder / odd).write_bytes(b"")
    denied = os.access(folder / "denied.jpg", os.R_OK)  # the superuser may read it
    return [
        Broken("a named pipe", "pipe.jpg", False), Broken("a link to nothing", "nothing.jpg", False),
        Broken("a link in a circle", "circle.jpg", False), Broken("a link to a device", "endless.jpg", False), Broken("a socket", "socket.jpg", False),
        Broken("an input/output error", "failing.jpg", False),
        Broken("no permission", "denied.jpg", denied), Broken("an odd name", odd, False),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- files to be listed


def decodes(path: Path) -> bool:
    """Say whether Pillow alone decodes all pixels of a file to RGB, within the limits."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            Image.MAX_IMAGE_PIXELS = None
            with Image.open(file) as image:
                if image.format == "EPS" or image.width * image.height > _MOST:
                    return False
                image.load()
                return min(image.convert("RGB").size) >= MIN_SIDE
    except Exception:
        return False


def unusable(folder: Path, made: Sequence[Broken]) -> set[str]:
    """Return the names that must be listed: known from their making, else from Pillow alone."""
    return {item.name for item in made if not (decodes(folder / item.name) if item.usable is None else item.usable)}


def against(must: set[str], listed: Sequence[dict[str, Any]], made: Sequence[Broken]) -> list[tuple[str, str]]:
    """Compare the files that must be listed with those that are; return (case, what is wrong)."""
    kinds = {item.name: item.kind for item in made}
    names = [row["key"] for row in listed]
    wrong = [(f"{kinds[name]}: {name}", "it cannot be used, and is not listed") for name in sorted(must - set(names))]
    wrong += [
        (f"{kinds.get(name, 'unknown')}: {name!r}", "it can be used, and is listed")
        for name in names
        if name not in must
    ]
    wrong += [
        (f"{kinds.get(name, 'unknown')}: {name!r}", "it is listed twice") for name in {*names} if names.count(name) > 1
    ]
    return wrong + [(row["key"], "it is listed without a reason") for row in listed if not str(row["reason"]).strip()]


# ------------------------------------------------------------------------------------------- the commands


def campaign(folder: Path, seed: int, damaged: int, good: int) -> Part:
    """Check and train over damaged files.

    Args:
        folder: An empty folder.
        seed: Seed of the files.
        damaged: Number of files that are damaged, or look damaged.
        good: Number of good files among them.
    """
    part = Part("images")
    photos = folder / "photos"
    made = make(photos, seed, damaged, good)
    part.cases.update(item.kind for item in made)
    part.cases["a folder"] = 1
    must = unusable(photos, made)
    again = f"images.make(folder, seed={seed}, damaged={damaged}, good={good})"
    (folder / "damaged.toml").write_text(RECIPE, encoding="utf-8")
    checked = apart.run(["data", "check", "photos", "--jobs", "2", "--out", "bad.json"], folder, TIMEOUT_S)
    _record(part, "sslkit data check", checked, 5 if must else 0, folder / "bad.json", must, made, again)
    ran = apart.run(["run", "damaged.toml", "--workers", "0"], folder, TIMEOUT_S)
    bad = folder / "runs/damaged/full-s0/bad_images.json"
    _record(part, "sslkit run", ran, 0, bad, must, made, again)
    vanishing(part, folder, seed, max(8, good // 4))
    boxes(part, folder, seed)
    part.figures |= {
        "files": len(made), "unusable": len(must), "damaged_but_usable": sum(
            item.usable is None and item.name not in must for item in made),
        "check_s": round(checked.seconds, 1), "run_s": round(ran.seconds, 1),
        "most_memory_mb": round(max(checked.peak_mb, ran.peak_mb)),
    }  # fmt: skip
    return part


def _record(
    part: Part, what: str, ended: apart.Ended, code: int, file: Path, must: set[str], made: Sequence[Broken], again: str
) -> None:
    """Record what is wrong with the end of a command, and with its list."""
    if ended.crashed or ended.code != code or ended.did:
        answer = ended.crashed or f"exit code {ended.code} in place of {code}; it did {ended.did[:3]}"
        part.fault(what, f"{answer}: {ended.err.strip()[-500:]}", again)
        return
    for case, wrong in against(must, json.loads(file.read_text(encoding="utf-8")), made):
        part.fault(f"{what}: {case}", wrong, again)


# ------------------------------------------------------------------------------------------- files that vanish


class Vanishing:
    """An observer that deletes files after a step."""

    def __init__(self, step: int, files: Sequence[Path]) -> None:
        self.step, self.files = step, files

    @hookimpl
    def sslkit_step_finished(self, run: Any, step: int, terms: Any) -> None:
        if step == self.step:
            for file in self.files:
                file.unlink()


def _with(name: str, module: Any) -> Plugins:
    plugins = Plugins.load()
    plugins.add(Owner(name, f"sslkit-{name}", "1"), module)
    return plugins


def vanishing(part: Part, folder: Path, seed: int, count: int) -> None:
    """Delete files during a run: those not drawn yet must be listed, and no others."""
    from sslkit.data.epochs import Epochs

    photos, drawn = folder / "vanishing", np.random.default_rng(seed)
    photos.mkdir()
    files = [photos / f"{number:04d}.png" for number in range(4 * count)]
    for file in files:
        photo(drawn, 24, 24).save(file)
    order = Epochs(len(files), 16, 1, 0).order(0)[: len(files)]
    step = len(files) // 16 // 2
    gone = [files[int(index)] for index in order[-count:]]
    ended = apart.run(
        ["run", "damaged.toml", "--workers", "0", "--arm", "vanishing", "--set", "source.root=vanishing"], folder, TIMEOUT_S,
        also=functools.partial(_with, "vanishing", Vanishing(step, gone)),
    )  # fmt: skip
    part.cases["gone while the run goes on"] = count
    made = [Broken("gone while the run goes on", file.name, file not in gone) for file in files]
    bad = folder / "runs/damaged/vanishing-s0/bad_images.json"
    _record(
        part,
        "sslkit run, files gone",
        ended,
        0,
        bad,
        {file.name for file in gone},
        made,
        f"images.vanishing, seed {seed}",
    )


# ------------------------------------------------------------------------------------------- boxes

HOSTILE = (np.nan, np.inf, -np.inf, -1.0, 0.0, -0.0, 0.5, 1.0, 10.0, 23.0, 24.0, 25.0, 1e6, 3.4e38, -3.4e38, 1e-40)


def hostile_boxes(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    """Return boxes that are outside the image, have no area, are inverted or not finite; shape (count, 4)."""
    return rng.choice(np.array(HOSTILE, np.float32), (count, 4))


@dataclass(frozen=True)
class _Hostile(Proposals):
    images: int
    seed: int

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return hostile_boxes(np.random.default_rng([self.seed, index]), index % 40)


class HostileBoxes(Proposer):
    """Boxes that no proposer should give."""

    name = "hostile-boxes"

    def missing(self, source: Any) -> str | None:
        return None

    def build(self, source: Any, progress: Any, jobs: int) -> None:
        pass

    def open(self, source: Any) -> Proposals:
        return _Hostile(len(source), 0)


class Strict(ViewSampler):
    """A sampler that raises on boxes that the core should have removed, and crops views of the others."""

    name = "strict"
    needs_proposals = True

    @property
    def groups(self) -> dict[str, int]:
        return {"scene": 2}

    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        if wrong := faulty(proposals, height, width):
            raise AssertionError(wrong)
        given = proposals if len(proposals) else np.array([[0, 0, width, height]], np.float32)
        return Sample({"scene": given[rng.integers(len(given), size=2)]}, {"given": float(len(proposals))})


def faulty(boxes: npt.NDArray[np.float32], height: int, width: int) -> str | None:
    """Say which box does not cover at least a pixel inside the image."""
    left, top, right, bottom = boxes.reshape(-1, 4).T
    good = (left >= 0) & (top >= 0) & (right <= width) & (bottom <= height) & (right - left >= 1) & (bottom - top >= 1)
    return None if good.all() else f"a sampler was given {boxes[~good][0].tolist()} of an image of {width} x {height}"


class _Boxes:
    @hookimpl
    def sslkit_proposers(self) -> list[Any]:
        return [HostileBoxes]

    @hookimpl
    def sslkit_samplers(self) -> list[Any]:
        return [Strict]


def boxes(part: Part, folder: Path, seed: int, count: int = 20_000) -> None:
    """Give hostile boxes to `within`, and to a run, which names their proposer."""
    rng = np.random.default_rng(seed)
    given = hostile_boxes(rng, count)
    part.cases["hostile boxes"] = count
    if wrong := faulty(within(given, 24, 24), 24, 24):
        part.fault("hostile boxes", wrong, f"images.boxes, seed {seed}")
    sets = ["source.root=vanishing", "proposals={use='faults/hostile-boxes'}", "sampler={use='faults/strict'}"]
    ended = apart.run(
        ["run", "damaged.toml", "--workers", "0", "--arm", "boxes", *(part for item in sets for part in ("--set", item))],
        folder, TIMEOUT_S, also=functools.partial(_with, "faults", _Boxes()),
    )  # fmt: skip
    named = "proposer 'faults/hostile-boxes' of plugin 'faults'" in ended.err and f"{__file__}, line " in ended.err
    if ended.crashed or ended.code != 4 or not named:
        part.fault(
            "hostile boxes", f"{ended.crashed or ended.code}: {ended.err.strip()[-500:]}", "images.boxes: the run"
        )
