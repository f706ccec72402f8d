"""The kit over every installed component."""

from __future__ import annotations

import json
import tarfile
from collections import Counter

from PIL import Image

from sslkit.plugins import Plugins
from sslkit.testing import Case, check_component, fake_image, parametrize_with_checks
from sslkit_univip import InstanceInstance

NO_GRADIENT = {"gradcheck": "the transport plan and the masses carry no gradient, as in the paper"}
STOPPED = "as in the paper, no gradient passes through "
SMALL = {
    "timm/timm": Case(object, {"model": "test_resnet"}),
    "torchvision/vit-small": Case(object, {"image_size": 64}, sizes=(64, 96)),
    "images/sample-scenes": Case(object, {"images": 16}),
    "probes/linear": Case(object, {"epochs": 5}),
    "univip/instance-instance": Case(object, expected_failed_checks=NO_GRADIENT),
    "lightly/simsiam": Case(object, expected_failed_checks={"gradcheck": STOPPED + "the projections"}),
    "lightly/tico": Case(object, expected_failed_checks={"gradcheck": STOPPED + "the covariance"}),
    "lightly/dclw": Case(object, expected_failed_checks={"gradcheck": STOPPED + "the weights"}),
    "lightly/macl": Case(object, expected_failed_checks={"gradcheck": STOPPED + "the temperature"}),
    "lightly/visreg": Case(
        object, {"directions": 16}, expected_failed_checks={"gradcheck": STOPPED + "the scale of the shape's term"}
    ),
    "lightly/swav": Case(
        object,
        {"prototypes": 5, "queue": 16, "queue_epoch": 0, "freeze_epochs": 0},
        expected_failed_checks={"gradcheck": STOPPED + "the assignments"},
    ),
    "lightly/w-mse": Case(object, {"size": 6, "eps": 0.01}, {"d": 2}),
    "lightly/directclr": Case(object, {"size": 4}),
    **{f"lightly/{name}": Case(object, {"queue": 16}) for name in ("moco", "nnclr", "densecl")},
    **{f"lightly/{name}": Case(object, {"prototypes": 5}) for name in ("msn", "pmsn")},
    **{f"lightly/{name}": Case(object, {"directions": 16}) for name in ("sigreg", "lejepa")},
}
SMALL_HEADS = {
    "lightly/dino": Case(object, {"hidden": 16, "bottleneck": 8, "out": 24}),
    **dict.fromkeys(
        ("heads/mlp", "lightly/simsiam-predictor", "lightly/nnclr-predictor"), Case(object, {"hidden": 16})
    ),
}
"""Cases by id, which a head may share with an objective; other heads are made as `HEAD`."""
HEAD = Case(object, {"hidden": 16, "out": 8})
LARGE = {"torchvision/resnet34", "torchvision/resnet101", "torchvision/vit-base"}
"""Larger variants of classes that are checked in a smaller one."""
NEED_DATA = {"images/coco", "images/folder", "images/shards", "images/voc"}
"""Sources that are checked below, with data of their own."""


def cases() -> list[Case]:
    all_cases = []
    for kind, components in Plugins.load().components.items():
        for id_, component in components.items():
            if kind != "proposer" and id_ not in LARGE | NEED_DATA:
                small = SMALL_HEADS.get(id_, HEAD) if kind == "head" else SMALL.get(id_, Case(object))
                all_cases.append(
                    Case(component.cls, small.options, small.dims, small.sizes, small.expected_failed_checks)
                )
    return all_cases


SOLVERS = [{"solver": "exact"}] + [
    {"solver": solver, "entropic": entropic, "normalise": False, "floor": 0.0}
    for solver in ("unbalanced", "partial")
    for entropic in (True, False)
]


@parametrize_with_checks([Case(InstanceInstance, o, expected_failed_checks=NO_GRADIENT) for o in SOLVERS])
def test_solvers_of_instance_instance(case, check):
    check(case)


@parametrize_with_checks(cases())
def test_conformance(case, check):
    check(case)


def test_what_was_checked():
    assert Counter(case.kind for case in cases()) == {
        "source": 1, "sampler": 3, "backbone": 6, "head": 17, "objective": 31, "probe": 2,
    }  # fmt: skip


def write_images(folder):
    """Write five images and return their sizes in COCO's format."""
    folder.mkdir(parents=True)
    entries = []
    for index in range(5):
        name, (height, width) = f"{index:012d}.jpg", (60 + index, 80)
        Image.fromarray(fake_image(height, width, index)).save(folder / name)
        entries.append({"id": index, "file_name": name, "height": height, "width": width})
    return entries


def test_folder(tmp_path, installed):
    for kind in ("cats", "dogs"):
        write_images(tmp_path / "train" / kind)
    folder = installed.find("source", "images/folder").cls
    check_component(Case(folder, {"root": tmp_path, "split": "train", "labels": True}))
    check_component(Case(folder, {"root": tmp_path}))


def test_shards(tmp_path, installed, monkeypatch):
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "images")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/1.tar", "w") as tar:
        for number, file in enumerate(sorted((tmp_path / "images").iterdir())):
            label = file.with_suffix(".cls")
            label.write_text(str(number % 2), encoding="utf-8")
            for path in (file, label):
                tar.add(path, path.name)
    shards = installed.find("source", "images/shards").cls
    check_component(Case(shards, {"root": tmp_path / "tars", "labels": "cls"}))
    check_component(Case(shards, {"root": tmp_path / "tars"}))


def test_coco(tmp_path, installed):
    entries = write_images(tmp_path / "train2017")
    boxes = [{"id": i, "image_id": i % 5, "category_id": 7 + i % 2, "bbox": [i, 2, 30, 20]} for i in range(8)]
    boxes = [box | {"iscrowd": 0, "area": 600} for box in boxes]
    names = [{"id": 7, "name": "train"}, {"id": 8, "name": "truck"}]
    (tmp_path / "annotations").mkdir()
    values = {"images": entries, "annotations": boxes, "categories": names}
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(values))
    check_component(Case(installed.find("source", "images/coco").cls, {"root": tmp_path}))
