"""The toy plugin keeps sslkit's contracts, and its loss is the documented one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sslkit_toy.backbone import TinyConv
from sslkit_toy.objective import CosineSpread
from sslkit_toy.sampler import Corners

from sslkit.testing import Case, check_plugin, parametrize_with_checks


@parametrize_with_checks([CosineSpread, Corners, Case(Corners, {"views": 4, "share": 0.5}), TinyConv])
def test_conformance(case, check):
    check(case)


def test_it_is_installed_as_a_plugin():
    check_plugin("toy")


def test_the_loss_is_the_documented_one():
    z = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = (z / z.norm(dim=-1, keepdim=True)).numpy()
    mean = u.mean(1)
    agreement = 1 - np.mean([mean[i] @ mean[i] for i in range(4)])
    spread = np.mean([(mean[i] @ mean[j]) ** 2 for i, j in itertools.permutations(range(4), 2)])
    terms = CosineSpread({"v": 3, "d": 5}, spread=0.5)(z).terms
    assert terms["agreement"].item() == pytest.approx(agreement)
    assert terms["spread"].item() == pytest.approx(0.5 * spread)


def test_one_image_has_no_others():
    assert CosineSpread({"v": 2, "d": 5})(torch.randn(1, 2, 5)).terms["spread"] == 0


def test_corners_differ():
    boxes = Corners(views=4, share=0.5).sample(100, 200, np.zeros((0, 4), np.float32), np.random.default_rng(0))
    assert sorted(map(tuple, boxes.boxes["scene"].tolist())) == [
        (0, 0, 100, 50), (0, 50, 100, 100), (100, 0, 200, 50), (100, 50, 200, 100),
    ]  # fmt: skip
