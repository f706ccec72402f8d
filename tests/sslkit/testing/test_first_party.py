"""The kit over every installed component."""

from __future__ import annotations

from collections import Counter

from sslkit.plugins import Plugins
from sslkit.testing import Case, parametrize_with_checks

NO_GRADIENT = {"gradcheck": "the transport plan and the masses carry no gradient, as in the paper"}
SMALL = {
    "timm/timm": Case(object, {"model": "test_resnet"}),
    "torchvision/vit-small": Case(object, {"image_size": 64}, sizes=(64, 96)),
    "heads/mlp": Case(object, {"hidden": 16}),
    "images/sample-scenes": Case(object, {"images": 16}),
    "univip/instance-instance": Case(object, expected_failed_checks=NO_GRADIENT),
}
LARGE = {"torchvision/resnet34", "torchvision/resnet101", "torchvision/vit-base"}
"""The same classes as smaller ones, only larger."""
NEED_DATA = {"images/coco", "images/folder"}
"""Checked where their tests make the data."""


def cases() -> list[Case]:
    found = []
    for kind, components in Plugins.load().components.items():
        for id_, component in components.items():
            if kind != "proposer" and id_ not in LARGE | NEED_DATA:
                given = SMALL.get(id_, Case(object))
                found.append(Case(component.cls, given.options, given.dims, given.sizes, given.expected_failed_checks))
    return found


@parametrize_with_checks(cases())
def test_conformance(case, check):
    check(case)


def test_what_was_checked():
    assert Counter(case.kind for case in cases()) == {
        "source": 1, "sampler": 3, "backbone": 5, "head": 1, "objective": 3, "probe": 1,
    }  # fmt: skip
