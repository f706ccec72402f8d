"""Images as files and in tars: the time to index them, and to read them at random.

    PYTHONPATH=benchmarks python -m speed.shards PHOTOS [--copies N] [--folder DIR]

Images are copied N times, as files and packed. Before each round the kernel's file cache is dropped where that is
allowed (root, Linux): then reads are from the disk, and files must be located there first. Otherwise all is in memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from speed.timing import Row, interleaved, machine, row, table
from sslkit.api import Source, no_progress
from sslkit_images.folder import Folder
from sslkit_images.shards.packing import pack
from sslkit_images.shards.source import Shards

READ = 1000


def copied(photos: Path, folder: Path, copies: int) -> Path:
    """Copy the images this many times, into folders of a thousand."""
    files = sorted(photos.rglob("*.jpg"))
    for number in range(copies * len(files)):
        target = folder / f"{number // 1000:04d}/{number:08d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[number % len(files)], target)
    return folder


def forget() -> bool:
    """Drop the kernel's file cache, and say whether that worked."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    except OSError:
        return False
    return True


def opening(make: dict[str, type[Source]], roots: dict[str, Path]) -> list[Row]:
    """Time how long each source takes to index its images, the first time and again, in seconds per image."""
    rows = []
    for name, kind in make.items():
        for when in ("at first", "again"):
            forget()
            began = time.perf_counter()
            source = kind(root=roots[name])
            source.prepare(no_progress)
            source.open()
            rows.append(row("to know the photos", f"{name}, {when}", [(time.perf_counter() - began) / len(source)]))
    return rows


def reading(sources: dict[str, Source], rounds: int) -> list[Row]:
    """Time reads of images in an order that is drawn anew for each round."""
    draws = np.random.default_rng(0)
    kept = "from the disk" if forget() else "from memory"

    def read(source: Source) -> None:
        for index in draws.permutation(len(source))[:READ]:
            source.read(int(index))

    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(rounds):
        for name, source in sources.items():
            forget()
            began = time.perf_counter()
            read(source)
            seconds[name].append((time.perf_counter() - began) / READ)
    cold = [row(f"to read a photo at random, {kept}", name, taken) for name, taken in seconds.items()]
    lanes = {name: lambda source=source: read(source) for name, source in sources.items()}
    for source in sources.values():
        for index in range(len(source)):
            source.read(index)
    return cold + interleaved("to read a photo at random, from memory", lanes, rounds, READ)


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="of the disk to measure; for temporary files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        os.environ["SSLKIT_CACHE"] = f"{folder}/cache"
        roots = {"files": copied(args.photos, Path(folder, "files"), args.copies), "tars": Path(folder, "tars")}
        plain = Folder(root=roots["files"])
        plain.open()
        pack(plain, roots["tars"], 10**9, no_progress)
        rows = opening({"files": Folder, "tars": Shards}, roots)
        tars = Shards(root=roots["tars"])
        tars.open()
        rows += reading({"files": plain, "tars": tars}, 5)
        print("\n".join(f"- {name}: {value}" for name, value in machine().items()), f"- photos: {len(plain)}", sep="\n")
        for what in dict.fromkeys(item["what"] for item in rows):
            print(f"\n{what}\n\n{table([item for item in rows if item['what'] == what])}")


if __name__ == "__main__":
    main()
