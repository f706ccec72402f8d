"""Region proposals: seconds per image and recall of labelled boxes, per search, working size and control.

python benchmarks/speed/proposals.py COCO_PHOTOS INSTANCES.json --photos 20              # timed, one process
python benchmarks/speed/proposals.py COCO_PHOTOS INSTANCES.json --jobs 2                 # recall on every image

Give images at full size; they are read before the timing. An image is decoded, reduced, searched and filtered once per
variant, with the variants in turn on each image, in a rotating order. Recall at IoU 0.5 is that of all raw regions, and
of the boxes that pass the filter under the default rules, either all of them or the first ones (`equal`: as many as the
first variant has for that image); crowds are left out. Random boxes and a grid, under the same constraints and as many
as the first variant has, are controls.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslkit.images import decode
from sslkit_proposals.random_boxes import BoxConstraints, draw
from sslkit_proposals.search import DlibSearch, IntBoxes, OpenCVSearch, Search, find_regions
from sslkit_proposals.select import Rules, filter_boxes, select

DATA_SETS = {"COCO train2017": 118_287, "ImageNet-1k": 1_281_167}
CORES = 16
SEEDS = 5
"""Seeds of random boxes: their recall is a mean over these."""
VARIANTS: Mapping[str, Search] = {
    **{f"OpenCV fast, {side or 'full size'}": OpenCVSearch(working_side=side) for side in (None, 480, 320, 240, 200)},
    **{f"dlib, {side or 'full size'}": DlibSearch(working_side=side) for side in (None, 320, 240, 200)},
}


class Photo(NamedTuple):
    """Encoded bytes, and the labelled boxes, shape (n, 4), xyxy."""

    name: str
    data: bytes
    boxes: np.ndarray


class Outcome(NamedTuple):
    """Result of one variant on one image: seconds, numbers of boxes, and each labelled box's overlaps.

    `best_raw` (n) is the largest with any raw region; `kept` (n, m) are those with the boxes that passed the filter.
    """

    seconds: float
    raw: int
    best_raw: np.ndarray
    kept: np.ndarray


def read(root: Path, annotations: Path, count: int | None) -> list[Photo]:
    """Return images with at least one box that is not a crowd, by name."""
    labels = json.loads(annotations.read_text())
    boxes: dict[int, list[list[float]]] = {}
    for one in labels["annotations"]:
        if not one.get("iscrowd"):
            boxes.setdefault(one["image_id"], []).append(one["bbox"])
    images = sorted((image for image in labels["images"] if image["id"] in boxes), key=lambda image: image["file_name"])
    return [_photo(root / image["file_name"], np.array(boxes[image["id"]])) for image in images[:count]]


def _photo(path: Path, xywh: np.ndarray) -> Photo:
    return Photo(path.name, path.read_bytes(), np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))


def overlaps(truth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the intersections over union, shape (true boxes, boxes)."""
    low = np.maximum(truth[:, None, :2], boxes[None, :, :2])
    high = np.minimum(truth[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(one[:, 2:] - one[:, :2]).prod(axis=1) for one in (truth, boxes)]
    iou: np.ndarray = shared / (areas[0][:, None] + areas[1][None] - shared)
    return iou


def outcome(seconds: float, photo: Photo, raw: IntBoxes, kept: IntBoxes) -> Outcome:
    best = overlaps(photo.boxes, raw).max(axis=1, initial=0)
    return Outcome(seconds, len(raw), best, overlaps(photo.boxes, kept))


def searched(photo: Photo, search: Search, rules: Rules) -> tuple[Outcome, int]:
    """Process an image as a build does; also return the minimum side that was used."""
    begun = time.perf_counter()
    image = decode(photo.data, photo.name)
    raw = find_regions(image, search)
    chosen = select(raw, *image.shape[:2], rules)
    seconds = time.perf_counter() - begun
    least = rules.min_sides[chosen.rung] if chosen.rung < len(rules.min_sides) else min(image.shape[:2]) // 2
    return outcome(seconds, photo, raw, chosen.boxes), least


def random(photo: Photo, first: Outcome, least: int, rules: Rules, seed: int) -> Outcome:
    """Draw as many boxes as `first` has, raw without constraints and kept with those of the filter."""
    height, width = decode(photo.data, photo.name).shape[:2]
    rng = np.random.default_rng([seed, len(photo.data)])
    raw = draw(height, width, BoxConstraints(first.raw, 10, 10.0, 1.0, seed), rng)
    kept = draw(height, width, BoxConstraints(count(first), least, rules.max_aspect, rules.max_iou, seed), rng)
    return outcome(0.0, photo, raw, kept)


def grid(photo: Photo, first: Outcome, least: int, rules: Rules) -> Outcome:
    """Lay windows of the image's shape, half and twice as wide, over it, coarse to fine, half of each overlapping."""
    height, width = decode(photo.data, photo.name).shape[:2]
    fine, coarse = lattice(height, width, 16), lattice(height, width, least)
    raw = fine[: first.raw]
    kept = filter_boxes(coarse, least, Rules(max_aspect=rules.max_aspect, max_iou=rules.max_iou, top=count(first)))
    return outcome(0.0, photo, raw, kept)


def lattice(height: int, width: int, least: float) -> IntBoxes:
    """Return windows whose shorter side falls from the whole image to `least` pixels by roots of two."""
    boxes = []
    for level in range(40):
        for shape in (1.0, 0.5, 2.0):
            size = 2 ** (-level / 2) * np.array([width * shape**0.5, height / shape**0.5])
            if size.min() < least or (size > [width, height]).any():
                continue
            steps = [
                np.linspace(0, free, 1 + int(np.ceil(2 * free / side))) for free, side in _gaps(size, width, height)
            ]
            corner = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2)
            boxes.append(np.concatenate([corner, corner + size], axis=1))
    return np.rint(np.concatenate(boxes)).astype(np.int64)


def _gaps(size: np.ndarray, width: int, height: int) -> list[tuple[float, float]]:
    return [(width - size[0], size[0]), (height - size[1], size[1])]


def measure(photo: Photo, turn: int, variants: Mapping[str, Search], rules: Rules) -> dict[str, list[Outcome]]:
    """Search one image in every way, starting with another variant each time; add the controls."""
    names = list(variants)
    order = names[turn % len(names) :] + names[: turn % len(names)]
    found = {name: searched(photo, variants[name], rules) for name in order}
    first, least = found[names[0]]
    outcomes = {name: [found[name][0]] for name in names}
    outcomes["random boxes"] = [random(photo, first, least, rules, seed) for seed in range(SEEDS)]
    outcomes["grid"] = [grid(photo, first, least, rules)]
    return outcomes


def count(one: Outcome) -> int:
    """Return the number of boxes that passed the filter."""
    return one.kept.shape[1]


def recall(photos: Sequence[Photo], hits: Sequence[Sequence[np.ndarray]], least: float) -> np.ndarray:
    """Return for each image the number of labelled boxes of `least` pixels a side, and how many of them are hit."""
    rows = []
    for photo, trials in zip(photos, hits, strict=True):
        wanted = (photo.boxes[:, 2:] - photo.boxes[:, :2]).min(axis=1) >= least
        rows.append((wanted.sum(), np.mean([trial[wanted].sum() for trial in trials])))
    return np.array(rows, float)


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return a 95 % interval of the difference of two recalls: bootstrap over images, which are paired."""
    picks = np.random.default_rng(0).integers(0, len(one), (4000, len(one)))
    share = [rows[picks, 1].sum(axis=1) / rows[picks, 0].sum(axis=1) for rows in (one, other)]
    low, high = np.quantile(share[0] - share[1], [0.025, 0.975])
    return float(low), float(high)


def recalls(photos: Sequence[Photo], results: Sequence[dict[str, list[Outcome]]], large: float) -> list[dict[str, Any]]:
    """Return one row per variant: boxes per image, and recall of all labelled boxes and of those of `large` pixels."""
    firsts = [count(one[next(iter(one))][0]) for one in results]
    table: list[dict[str, Any]] = []
    reference = None
    for name in results[0]:
        trials = [one[name] for one in results]
        hits = {
            "raw": [[trial.best_raw >= 0.5 for trial in each] for each in trials],
            "kept": [[_hit(trial, None) for trial in each] for each in trials],
            "equal": [[_hit(trial, top) for trial in each] for each, top in zip(trials, firsts, strict=True)],
        }
        row: dict[str, Any] = {"what": "recall at IoU 0.5", "variant": name, "photos": len(photos), "large": large}
        row["raw"] = float(np.mean([np.mean([trial.raw for trial in each]) for each in trials]))
        row["kept"] = float(np.mean([np.mean([count(trial) for trial in each]) for each in trials]))
        for kind, least in (("all", 0.0), ("large", large)):
            for stage, found in hits.items():
                rows = recall(photos, found, least)
                row |= {f"n_{kind}": int(rows[:, 0].sum()), f"{stage}_{kind}": rows[:, 1].sum() / rows[:, 0].sum()}
        kept = recall(photos, hits["kept"], large)
        reference = kept if reference is None else reference
        row["low"], row["high"] = difference(kept, reference)
        table.append(row)
    return table


def _hit(one: Outcome, top: int | None) -> np.ndarray:
    hit: np.ndarray = one.kept[:, :top].max(axis=1, initial=0) >= 0.5
    return hit


def timings(results: Sequence[dict[str, list[Outcome]]], variants: Mapping[str, Search]) -> list[dict[str, Any]]:
    """Return one row per variant: median, quartiles and mean of the seconds per image."""
    rows = []
    for name in variants:
        seconds = [one[name][0].seconds for one in results if np.isfinite(one[name][0].seconds)]
        if not seconds:
            continue
        low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        row = {"what": "seconds a photo, one core", "variant": name, "median_s": median, "low_s": low, "high_s": high}
        rows.append(row | {"n": len(seconds), "mean_s": float(np.mean(seconds))})
    return rows


def steps(photos: Sequence[Photo], side: int | None) -> list[dict[str, Any]]:
    """Return the time around OpenCV's and dlib's search: decoding, reducing, filtering."""
    import cv2

    seconds_of: dict[str, list[float]] = {"decode": [], "reduce": [], "filter, OpenCV": [], "filter, dlib": []}
    for photo in photos:
        image = _clocked(seconds_of["decode"], partial(decode, photo.data, photo.name))
        scale = OpenCVSearch(working_side=side).scale(*image.shape[:2])
        size = tuple(round(edge * scale) for edge in image.shape[1::-1])
        _clocked(seconds_of["reduce"], partial(cv2.resize, image, size, interpolation=cv2.INTER_AREA))
        for name, search in (("OpenCV", OpenCVSearch(working_side=side)), ("dlib", DlibSearch(working_side=side))):
            raw = find_regions(image, search)
            _clocked(seconds_of[f"filter, {name}"], partial(select, raw, *image.shape[:2], Rules()))
    rows = [(name, np.quantile(seconds, [0.25, 0.5, 0.75])) for name, seconds in seconds_of.items()]
    what = f"around the search, {side}"
    return [
        {"what": what, "variant": name, "median_s": mid, "low_s": low, "high_s": high, "n": len(photos)}
        for name, (low, mid, high) in rows
    ]


def _clocked(seconds: list[float], job: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    result = job()
    seconds.append(time.perf_counter() - begun)
    return result


def bench(
    photos: Sequence[Photo], variants: Mapping[str, Search], rules: Rules, jobs: int = 1, keep: Path | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of `timings` and of `recalls`; images searched by several jobs are not timed."""
    known: dict[str, dict[str, list[Outcome]]] = pickle.loads(keep.read_bytes()) if keep and keep.exists() else {}
    job = partial(measure, variants=variants, rules=rules)
    new = [(turn, photo) for turn, photo in enumerate(photos) if photo.name not in known]
    if jobs == 1:
        known |= {photo.name: job(photo, turn) for turn, photo in new}
    else:
        with ProcessPoolExecutor(jobs) as pool:
            found = pool.map(job, [photo for _, photo in new], [turn for turn, _ in new])
            known |= {photo.name: _untimed(one) for (_, photo), one in zip(new, found, strict=True)}
    if keep:
        keep.write_bytes(pickle.dumps(known))
    results = [known[photo.name] for photo in photos]
    return timings(results, variants), recalls(photos, results, rules.min_sides[-1])


def _untimed(found: Mapping[str, list[Outcome]]) -> dict[str, list[Outcome]]:
    return {name: [trial._replace(seconds=float("nan")) for trial in trials] for name, trials in found.items()}


def extrapolated(row: Mapping[str, Any]) -> str:
    """Return how long whole data sets take on 16 cores at this rate."""
    hours = {name: images * row["mean_s"] / CORES / 3600 for name, images in DATA_SETS.items()}
    return ", ".join(f"{name} {60 * h:.0f} min" if h < 2 else f"{name} {h:.1f} h" for name, h in hours.items())


def show(times: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> None:
    for row in times:
        spread = f"{row['median_s']:7.4f} ({row['low_s']:.4f} to {row['high_s']:.4f})"
        mean = f" mean {row['mean_s']:.4f}; {CORES} cores: {extrapolated(row)}" if "mean_s" in row else ""
        print(f"{row['what']:26} {row['variant']:24} {spread} n={row['n']}{mean}")
    for row in found:
        raw = f"raw {row['raw']:6.0f}: all {row['raw_all']:.3f} large {row['raw_large']:.3f}"
        kept = f"kept {row['kept']:5.1f}: all {row['kept_all']:.3f} large {row['kept_large']:.3f}"
        beside = f"equal: {row['equal_large']:.3f}, beside the first {row['low']:+.3f} to {row['high']:+.3f}"
        print(f"{row['variant']:24} {raw}  {kept} {beside}")
    if found:
        photos, boxes, sized, large = (found[0][name] for name in ("photos", "n_all", "n_large", "large"))
        print(f"{photos} photos, {boxes} boxes, {sized} of {large} px or more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of photos")
    parser.add_argument("annotations", type=Path, help="COCO's instances of them")
    parser.add_argument("--photos", type=int, help="how many; all by default")
    parser.add_argument("--only", nargs="+", default=[""], help="variants with one of these words in their names")
    parser.add_argument("--min-sides", type=int, nargs="+", default=[96, 64], help="of the filter")
    parser.add_argument("--jobs", type=int, default=1, help="processes; photos are timed with one only")
    parser.add_argument("--keep", type=Path, help="add results to this file, and take those that it has: in stretches")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    photos = read(options.root, options.annotations, options.photos)
    variants = {name: search for name, search in VARIANTS.items() if any(word in name for word in options.only)}
    rules = Rules(min_sides=tuple(options.min_sides))
    times, found = bench(photos, variants, rules, options.jobs, options.keep)
    times += steps(photos[:10], 320) if options.jobs == 1 else []
    packages = ", ".join(f"{name} {version(name)}" for name in ("opencv-contrib-python-headless", "dlib-bin", "numpy"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    show(times, found)
    if options.json:
        options.json.write_text(json.dumps(times + found, indent=1))


if __name__ == "__main__":
    main()
