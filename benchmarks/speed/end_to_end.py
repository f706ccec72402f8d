"""From images on disk to weights: BYOL by sslkit with its defaults, and by lightly as in its documentation.

PYTHONPATH=benchmarks python -m speed.end_to_end --photos FOLDER

Both train ResNet-18 on 96 px views for one epoch of the same images, from opening the folder to weights on disk, each
in a process of its own; imports are not counted. Ours also saves its metrics, monitors and a checkpoint. Default
against default: ours uses bf16 where the processor is fast at it, and channels last; lightly's page uses float32 and
torch's layout.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity
from lightly.models.utils import update_momentum
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from lightly.utils.scheduler import cosine_schedule
from torch.utils.data import DataLoader

from speed import photos
from speed.plans import planned
from speed.step import Documented
from speed.timing import Row, apart, interleaved, machine, table
from sslkit.folders import cores
from sslkit.plugins import Plugins
from sslkit.storage.run_folder import RunFolder
from sslkit.training.options import RunOptions
from sslkit.training.trainer import train

RECIPE = """
epochs = 1
batch_size = {batch}
[source]
use = "folder"
root = '{root}'
[sampler]
use = "two-views"
[backbone]
use = "resnet18"
[heads.main]
projector = {{ use = "mlp", hidden = 1024, out = 256, bias = false }}
predictor = {{ use = "mlp", hidden = 1024, bias = false }}
[target]
momentum = 0.996
[objectives.scene-scene]
weight = 0.5
[[augment.scene]]
size = {size}
blur = 1.0
[[augment.scene]]
size = {size}
blur = 0.1
solarize = 0.2
[optimizer]
use = "sgd"
base_lr = 0.06
lr_scaling = "none"
momentum = 0.0
weight_decay = 0.0
"""


def ours(root: Path, folder: Path, batch: int, size: int) -> Callable[[], None]:
    """Return a function that trains as `sslkit run` does, in a new folder."""

    def trained() -> None:
        plan, text = planned(RECIPE.format(root=root, size=size, batch=batch))
        run = RunFolder(Path(tempfile.mkdtemp(dir=folder)))
        result = train(plan, text, Plugins.load(), run, RunOptions(accelerator="cpu"))
        assert result.state == "finished"
        assert (run.path / "backbone.safetensors").stat().st_size > 40_000_000

    return trained


def lightlys(root: Path, folder: Path, batch: int, size: int) -> Callable[[], None]:
    """Return a function that trains as lightly's page does, with one loader process per core (the page has eight)."""

    def trained() -> None:
        model = Documented("resnet18")
        transform = BYOLTransform(BYOLView1Transform(input_size=size), BYOLView2Transform(input_size=size))
        dataset = LightlyDataset(str(root), transform=transform)
        loader = DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=cores())
        criterion = NegativeCosineSimilarity()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
        total = 0.0
        momentum = cosine_schedule(0, 10, 0.996, 1)
        for views, *_ in loader:
            update_momentum(model.backbone, model.backbone_momentum, m=momentum)
            update_momentum(model.projection_head, model.projection_head_momentum, m=momentum)
            p0, z0 = model(views[0]), model.forward_momentum(views[0])
            p1, z1 = model(views[1]), model.forward_momentum(views[1])
            loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
            total += loss.detach()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.save(model.backbone.state_dict(), Path(tempfile.mkdtemp(dir=folder)) / "backbone.pt")

    return trained


def many(root: Path, folder: Path, count: int) -> Path:
    """Make a folder of this many files out of fewer."""
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    folder.mkdir()
    for number in range(count):
        source, made = files[number % len(files)], folder / f"{number:06d}.jpg"
        try:
            os.link(source, made)
        except OSError:  # another file system
            shutil.copy(source, made)
    return folder


def end_to_end(root: Path, steps: int, batch: int, n: int, size: int = 96) -> list[Row]:
    """Measure seconds per image from images on disk to weights."""
    count = steps * batch
    with tempfile.TemporaryDirectory() as folder:
        images = many(root, Path(folder) / "photos", count)
        lanes = {
            "lightly, documented": (lightlys, (images, Path(folder), batch, size)),
            "sslkit, default": (ours, (images, Path(folder), batch, size)),
        }
        what = f"photos on disk to weights, BYOL, ResNet-18, {size} px, {steps} steps of {batch}, a photo"
        with apart(lanes) as made:
            return interleaved(what, made, n, units=count, warm=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; scenes are drawn without it")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("-n", type=int, default=3, help="timed rounds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.photos or photos.draw(Path(folder), 64)
        print(table(end_to_end(root, args.steps, args.batch, args.n)))
    print(machine())


if __name__ == "__main__":
    main()
