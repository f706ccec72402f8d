"""The ceiling of the study is the same network, trained with the labels of the probes' own crops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
PROBE = """
[probes.whole]
use = "linear"
crops = "multi-label"
size = 32
epochs = 2
lrs = [0.03]
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def examples(labels, ignored=None):
    from learning.ceiling import Examples

    n = len(labels)
    return Examples(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), labels, torch.arange(n) // 2, ignored)


def test_no_image_is_both_fitted_and_held_out():
    data = examples(torch.zeros(400, dtype=torch.long))
    fit, held_out = data.split(0.1, seed=3)
    assert sorted([*fit.tolist(), *held_out.tolist()]) == list(range(400))
    assert not {*data.images[fit].tolist()} & {*data.images[held_out].tolist()}
    assert 20 < len(held_out) < 60


def test_unclear_labels_do_not_count():
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    ignored = torch.tensor([[False, True, False], [False, False, False]])
    logits = torch.tensor([[2.0, 9.0, -1.0], [0.5, 0.0, -3.0]])
    share = torch.sigmoid(logits.double())
    terms = -(labels * share.log() + (1 - labels) * (1 - share).log())
    terms[ignored] = 0
    data = examples(labels, ignored)
    assert data.loss(logits, torch.tensor([0, 1])).item() == pytest.approx(terms.sum().item() / 6, rel=1e-6)


def test_it_learns_and_a_second_run_continues(small_recipe, tmp_path, monkeypatch, capsys):
    from learning import ceiling

    recipe, out = tmp_path / "recipe.toml", tmp_path / "ceiling.json"
    sizes = {"steps = 2": "steps = 60", "images = 8": "images = 24", "batch_size = 4": "batch_size = 16"}
    for old, new in sizes.items():
        small_recipe = small_recipe.replace(old, new)
    recipe.write_text(small_recipe + PROBE)
    losses = []
    original = ceiling.Examples.loss

    def loss(self, logits, rows):
        value = original(self, logits, rows)
        losses.append(value.item())
        return value

    monkeypatch.setattr(ceiling.Examples, "loss", loss)
    ceiling.main(str(recipe), out, 1)
    assert sum(losses[-10:]) < 0.9 * sum(losses[-60:-50])
    found = json.loads(out.read_text())
    assert found["0"]["whole"].keys() >= {"map", "chosen_training_lr"}
    assert 0 < found["0"]["whole"]["map"] <= 1
    monkeypatch.setattr(ceiling, "ceiling", None)  # not needed any more
    ceiling.main(str(recipe), out, 1)
    assert json.loads(out.read_text()) == found
    assert capsys.readouterr().out == "seed 0: whole\n"
