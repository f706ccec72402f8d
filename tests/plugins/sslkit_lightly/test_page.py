"""docs/lightly.md lists every loss of lightly, and every objective and head of the plugin."""

from __future__ import annotations

import inspect
from pathlib import Path

import lightly.loss
from lightly.loss import hypersphere_loss, regularizer
from torch import nn

from sslkit_lightly import sslkit_heads, sslkit_objectives

PAGE = (Path(__file__).parents[3] / "docs" / "lightly.md").read_text()
NO_LOSSES = {"Whitening2d", "PMSNCustomLoss"}
"""A part of W-MSE, and the form of PMSNLoss that the plugin uses."""


def test_every_loss_of_lightly_is_listed():
    losses = {
        name
        for module in (lightly.loss, regularizer, hypersphere_loss)
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, nn.Module) and cls is not nn.Module
    }
    assert len(losses) > 30
    assert not [name for name in losses - NO_LOSSES - {"PMSNLoss"} if f"`{name}`" not in PAGE]


def test_every_objective_and_head_is_listed():
    objectives, heads = PAGE.partition("## Heads")[::2]
    assert not [cls.name for cls in sslkit_objectives() if f"`{cls.name}`" not in objectives]
    assert not [cls.name for cls in sslkit_heads() if f"`{cls.name}`" not in heads]


def test_objectives_that_couple_the_batch_are_marked():
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| `") and line.count("|") == 7]
    marked = {name.strip(" `"): "yes" in row[4] for row in rows for name in row[1].split(",")}
    assert marked == {cls.name: cls.couples_batch for cls in sslkit_objectives()}
