"""Time how long annotations take to index: `PYTHONPATH=benchmarks python -m speed.annotations`.

COCO's train2017 in size (118,287 images, 860,000 annotations with polygons, about 400 MB) beside pycocotools, which
checks nothing, and VOC2012 (17,125 files). Each reader works in a process of its own; its peak memory is that above the
imports.

    --share X   share of that size; 1 by default
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

IMAGES, ANNOTATIONS, FILES, POLYGON = 118_287, 860_000, 17_125, 40


def write_coco(root: Path, share: float) -> None:
    """Write annotations of COCO's size, and an empty file for each image."""
    rng, images = random.Random(0), round(IMAGES * share)
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    names = [f"{number:012d}.jpg" for number in range(images)]
    for name in names:
        (root / "train2017" / name).touch()
    listed = [
        {"license": 3, "file_name": name, "height": 480, "width": 640, "date_captured": "2013-11-14", "id": number}
        for number, name in enumerate(names)
    ]
    categories = [{"supercategory": "thing", "id": number, "name": f"thing {number}"} for number in range(1, 91)]
    with (root / "annotations" / "instances_train2017.json").open("w") as file:
        file.write(f'{{"info": {{}}, "images": {json.dumps(listed)}, "annotations": [')
        for number in range(round(ANNOTATIONS * share)):
            file.write(("," if number else "") + json.dumps(annotation(rng, number, images)))
        file.write(f'], "categories": {json.dumps(categories)}}}')


def annotation(rng: random.Random, number: int, images: int) -> dict[str, object]:
    """Return an annotation with a polygon."""
    polygon = [round(rng.uniform(0, 480), 2) for _ in range(POLYGON)]
    box = [round(rng.uniform(0, high), 2) for high in (500, 400)] + [round(rng.uniform(1, 80), 2) for _ in range(2)]
    return {
        "segmentation": [polygon], "area": 702.1, "iscrowd": 0, "image_id": rng.randrange(images), "bbox": box,
        "category_id": rng.randint(1, 90), "id": number,
    }  # fmt: skip


def write_voc(root: Path, share: float) -> None:
    """Write VOC2012's number of annotation files, with three objects each, and an empty file for each image."""
    from sslkit_images.voc_annotation import CATEGORIES

    rng, names = random.Random(1), [f"2012_{number:06d}" for number in range(round(FILES * share))]
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in names:
        (root / "JPEGImages" / f"{name}.jpg").touch()
        objects = "".join(
            f"<object><name>{rng.choice(CATEGORIES)}</name><pose>Left</pose><difficult>0</difficult><bndbox><xmin>"
            f"{rng.randint(1, 200)}</xmin><ymin>{rng.randint(1, 150)}</ymin><xmax>{rng.randint(201, 500)}</xmax><ymax>"
            f"{rng.randint(151, 375)}</ymax></bndbox></object>"
            for _ in range(3)
        )
        size = "<size><width>500</width><height>375</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(names))


def coco(root: Path) -> Callable[[], object]:
    """Return what indexes COCO as sslkit does."""
    from sslkit_images.coco import Coco

    return Coco(root=root / "coco").open


def pycocotools(root: Path) -> Callable[[], object]:
    """Return what indexes COCO as pycocotools does."""
    from pycocotools.coco import COCO

    return lambda: COCO(str(root / "coco" / "annotations" / "instances_train2017.json"))


def voc(root: Path) -> Callable[[], object]:
    """Return what indexes VOC as sslkit does."""
    from sslkit_images.voc import Voc

    return Voc(root=root / "voc").open


def measured(read: Callable[[Path], Callable[[], object]], root: Path) -> tuple[float, float, float]:
    """Return seconds, processor seconds and peak MB of a reader, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(read, root, theirs))
    process.start()
    result: tuple[float, float, float] = ours.recv()
    process.join()
    return result


def _measure(read: Callable[[Path], Callable[[], object]], root: Path, answer: Connection) -> None:
    work = read(root)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor_start = time.perf_counter(), time.process_time()
    with redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        result = work()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor_start
    answer.send((seconds, processor, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))
    del result


def main() -> None:
    """Write the files, and print a table."""
    parser = argparse.ArgumentParser(prog="speed.annotations", description="Time how annotations are indexed.")
    parser.add_argument("--share", type=float, default=1.0)
    share = parser.parse_args().share
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["SSLKIT_CACHE"] = str(root / "cache")
        write_coco(root / "coco", share)
        write_voc(root / "voc", share)
        print("| reader | s | processor s | peak MB |\n| --- | ---: | ---: | ---: |")
        readers = {"COCO, first time": coco, "COCO, from the cache": coco, "COCO, pycocotools": pycocotools, "VOC": voc}
        for name, read in readers.items():
            seconds, processor, peak = measured(read, root)
            print(f"| {name} | {seconds:.1f} | {processor:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
