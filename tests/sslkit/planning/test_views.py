"""A view group of which only boxes are read needs no crops and no augmentation."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import torch

from sslkit.__main__ import main
from sslkit.api import Objective
from sslkit.data.epochs import Item
from sslkit.plugins import Owner, Plugins
from tests.conftest import RECIPE, make_module


class Boxes(Objective):
    """Pull features together, by the area of parts that no network sees."""

    name = "boxes"
    requires: ClassVar = {"f": "online.features.scene: b v f", "part": "batch.boxes.part: b k 4"}

    def __init__(self, dims: Any) -> None:
        super().__init__()

    def forward(self, f: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        areas = (part[..., 2:] - part[..., :2]).prod(-1)
        assert part.shape[1:] == (3, 4)
        assert part.is_meta or areas.min() > 0
        return f.var(dim=1).mean() * areas.mean() / areas.max()


class Flipped(Boxes):
    """The same, with the flips of its views."""

    name = "flipped"
    requires: ClassVar = {**Boxes.requires, "flips": "batch.flipped.part: b k"}

    def forward(self, f: torch.Tensor, part: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        assert flips.is_meta or not flips.any(), "what no network sees is not flipped"
        return super().forward(f, part)


class Constant(Boxes):
    """Read nothing that is trained."""

    name = "constant"
    requires: ClassVar = {"part": "batch.boxes.part: b k 4"}

    def forward(self, part: torch.Tensor) -> torch.Tensor:
        return part.mean()


@pytest.fixture
def command(plugins, monkeypatch, tmp_path):
    """Return a function that runs a command on a recipe with an objective, in this process."""
    plugins.add(Owner("mine", "sslkit-mine", "1"), make_module(objectives=[Boxes, Flipped, Constant]))
    monkeypatch.setattr(Plugins, "load", classmethod(lambda cls, *given, **named: plugins))
    monkeypatch.chdir(tmp_path)

    def command(name, *options, more="", objective="boxes"):
        text = RECIPE.replace("[objectives.alike]", f"[objectives.{objective}]").replace("epochs = 2", "steps = 2")
        (tmp_path / "dots.toml").write_text(text + more)
        return main([name, "dots.toml", "--set", "sampler.parts=3", *options])

    return command


@pytest.mark.parametrize("objective", ["boxes", "flipped"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_it_trains(command, objective, workers, tmp_path):
    assert command("run", "--workers", workers, "--accelerator", "cpu", objective=objective) == 0
    resolved = (tmp_path / "runs" / "dots" / "full-s3" / "recipe.toml").read_text()
    assert "[[augment.scene]]" in resolved
    assert "[[augment.part]]" not in resolved
    assert command("run", "--workers", "0", "--accelerator", "cpu", objective=objective) == 0, "the same recipe"


@pytest.mark.parametrize(
    "more", ["", "\n[[augment.part]]\nsize = 16\n", '\n[forward]\nbatch_norm = {part = "per-group"}\n']
)
def test_it_is_checked_and_said(command, capsys, more):
    assert command("check", "--json", more=more) == 0
    report = json.loads(capsys.readouterr().out)
    notes = " ".join(report["plan"]["notes"])
    assert "no network sees view group 'part', whose boxes are read: it is not cropped" in notes
    assert report["plan"]["groups"] == {"scene": 2, "part": 3}


def test_contact_sheets_show_the_boxes(command, tmp_path):
    assert command("views", "--out", "sheet.png") == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert command("resolve") == 0


def test_batches_have_boxes_and_no_pixels(dataset, plugins):
    plugins.add(Owner("mine", "sslkit-mine", "1"), make_module(objectives=[Boxes]))
    batch = dataset("sampler.parts=3", edit=("[objectives.alike]", "[objectives.boxes]"))[[Item(0, 1), Item(0, 2)]]
    assert batch["boxes.part"].shape == (2, 3, 4)
    assert batch["flipped.part"].shape == (2, 3)
    assert {name for name in batch if name.startswith("pixels")} == {"pixels.scene.online"}
    more = "\n[[augment.part]]\nsize = 16\n[objectives.parts]\n"
    seen = dataset("sampler.parts=3", more=more, edit=("[objectives.alike]", "[objectives.boxes]"))[
        [Item(0, 1), Item(0, 2)]
    ]
    assert torch.equal(seen["boxes.part"], batch["boxes.part"]), "the boxes do not depend on who looks"


def test_objectives_that_read_nothing_trained_are_refused(command, capsys):
    assert command("check", objective="constant") == 3
    assert "no objective reads the online network, so nothing is trained" in capsys.readouterr().err
    more = "\n[objectives.boxes]\n"
    assert command("run", "--workers", "0", "--accelerator", "cpu", objective="constant", more=more) == 0
