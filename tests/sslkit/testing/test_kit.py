"""The kit itself: valid components pass every check, and every check can fail."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from sslkit import hookimpl
from sslkit.api import Objective
from sslkit.plugins import Owner, Plugins
from sslkit.testing import (
    Case,
    blobs,
    check_backbone,
    check_component,
    check_head,
    check_objective,
    check_plugin,
    check_probe,
    check_sampler,
    check_source,
    checks_of,
    fake_dims,
    fake_image,
    fake_rows,
    parametrize_with_checks,
)
from sslkit.testing.case import KINDS
from sslkit.testing.common import COMMON

_spec = importlib.util.spec_from_file_location("broken", Path(__file__).parent / "broken.py")
broken = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(broken)
"""Imported by path: the tests are not a package, and its classes are pickled under the name of their module."""


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "broken", broken)


@parametrize_with_checks(broken.GOOD)
def test_valid_components_pass(case, check):
    check(case)


@pytest.mark.parametrize(("kind", "name"), broken.BROKEN)
def test_every_check_can_fail(kind, name):
    case, words = broken.BROKEN[kind, name]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - some components fail in their own way
        dict(checks_of(kind))[name](case)
    assert words in str(caught.value)


def test_no_check_is_left_out():
    common = {check.__name__.removeprefix("check_") for check in COMMON}
    expected = {(kind, name) for kind in KINDS for name, _ in checks_of(kind) if name not in common}
    expected |= {("objective", name) for name in common}
    backbones = {name for kind, name in expected if kind == "backbone"}
    expected -= {("head", name) for name in backbones}  # the same functions
    assert set(broken.BROKEN) == expected


def test_a_convenience_for_each_kind():
    check_objective(broken.Good, scale=2.0)
    check_objective(broken.Good, {"v": 3, "d": 5})
    check_sampler(broken.Halves, views=3)
    check_backbone(broken.Small, width=4)
    check_head(broken.Linear, {"d": 3}, out=2)
    check_source(broken.Squares, images=2)
    check_probe(broken.Means)


def test_lists_every_failure_at_once():
    with pytest.raises(AssertionError, match=r"'NamedBadly' fails 2 checks:\n  name: .*\n  options: .*"):
        check_objective(broken.Named, scale=-1.0)
    with pytest.raises(AssertionError, match="Halves is a ViewSampler: use check_sampler"):
        check_objective(broken.Halves)


def test_expected_failures_are_strict():
    reason = {"gradcheck": "the factor is detached"}
    check_component(Case(broken.Detached, expected_failed_checks=reason | {"documentation": "inherited"}))
    with pytest.raises(AssertionError, match=r"gradcheck: passes, although it is expected to fail \(the factor"):
        check_component(Case(broken.Good, expected_failed_checks=reason))


def test_expected_failures_become_strict_xfails():
    mark = parametrize_with_checks([broken.Good], expected_failed_checks={"gradcheck": "why"}).mark
    marked = {parameter.id: parameter.marks for parameter in mark.args[1]}
    assert marked["good-gradcheck"][0].kwargs == {"reason": "why", "strict": True}
    assert not marked["good-requires"]
    with pytest.raises(ValueError, match="unknown check 'gradcheckk' for objectives: did you mean 'gradcheck'"):
        parametrize_with_checks([broken.Good], expected_failed_checks={"gradcheckk": "why"})


def test_kinds():
    with pytest.raises(TypeError, match="is not a subclass of any of Objective, ViewSampler"):
        check_component(Case(dict))
    with pytest.raises(ValueError, match="unknown kind 'objectiv': did you mean 'objective'"):
        list(checks_of("objectiv"))


class Everything(Objective):
    """Reads one row of every kind."""

    name = "everything"
    requires: ClassVar = {
        "f": "online.features.global: b g f",
        "m": "online.map.global: b g f h w",
        "t": "target.tokens.local: b 5 t f",
        "boxes": "batch.boxes.local: b 5 4",
        "flipped": "batch.flipped.global: b g",
        "size": "batch.size: b 2",
        "index": "batch.index: b",
    }

    def forward(self, **rows):
        return rows["f"].mean()


def test_fake_rows():
    dims = fake_dims(Everything, {"g": 7})
    assert dims == {"g": 7, "f": 8}
    rows = fake_rows(Everything, {"g": 7}, batch=3, dtype=torch.float64)
    shapes = {name: tuple(row.shape) for name, row in rows.items()}
    assert shapes == {
        "f": (3, 7, 8), "m": (3, 7, 8, 3, 3), "t": (3, 5, 5, 8), "boxes": (3, 5, 4), "flipped": (3, 7),
        "size": (3, 2), "index": (3,),
    }  # fmt: skip
    assert [name for name, row in rows.items() if row.requires_grad] == ["f", "m"]
    assert rows["f"].dtype == torch.float64
    assert rows["index"].dtype == torch.int64
    assert (rows["boxes"][..., 2:] > rows["boxes"][..., :2]).all()
    assert (rows["boxes"] <= 64).all()
    repeated = fake_rows(Everything, {"g": 7}, batch=3, dtype=torch.float64)
    assert all(torch.equal(rows[name], repeated[name]) for name in rows)


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("online.projection.scene", "has no axes"),
        ("online.projection.scene: b v", "a row of projection has 3 axes, not 2"),
        ("online.projection.scene: b v -d", "neither a name nor a positive number"),
        ("online.projektion.scene: b v d", "is not a row"),
        ("batch.boxes.scene: b v 5", "axis '5'"),
        ("online.projection.scene: b b d", "it is 6 elsewhere"),
    ],
)
def test_malformed_requirements(requirement, words):
    cls = type("Malformed", (Everything,), {"requires": {"x": requirement}})
    with pytest.raises(ValueError, match=words):
        fake_rows(cls, {"v": 3})


def test_fakes_are_as_documented():
    assert fake_image(30, 50).shape == (30, 50, 3)
    assert fake_image(30, 50).std() > 5
    train = blobs(20, categories=5)
    assert train.features.shape == (20, 16)
    assert sorted(set(train.labels.tolist())) == [0, 1, 2, 3, 4]


def test_plugins_that_load(installed):
    for name in installed.owners:
        check_plugin(name)


def test_broken_plugins(monkeypatch):
    plugins = Plugins.load(points=[])
    module = types.ModuleType("hollow")
    plugins.add(Owner("hollow", "sslkit-hollow", "1"), module)
    monkeypatch.setattr(Plugins, "load", classmethod(lambda cls, only: plugins))
    with pytest.raises(AssertionError, match="plugin 'hollow' offers nothing"):
        check_plugin("hollow")
    module.sslkit_recipes = hookimpl(lambda: ["/nowhere/recipe.toml"])
    other = types.ModuleType("other")
    other.sslkit_recipes = hookimpl(lambda: ["/nowhere/recipe.toml"])
    plugins.add(Owner("other", "sslkit-other", "1"), other)
    with pytest.raises(AssertionError, match="returned /nowhere/recipe.toml, which is not a file: does the wheel"):
        check_plugin("other")
