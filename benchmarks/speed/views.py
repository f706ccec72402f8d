"""From JPEGs to views: our pipeline beside lightly's transforms and torchvision's, on one core and through the loader.

PYTHONPATH=benchmarks python -m speed.views --photos FOLDER

Each image gives UniVIP's six views, 2 x 224 and 4 x 96 pixels, with BYOL's augmentation. Every variant decodes an image
once and reads the same files. The outputs:

- float: normalised float32, the input of a network; like for like;
- uint8: augmented bytes, which the training process normalises;
- colour on the device: bytes that are only cropped, and 13 numbers per view for the rest of the augmentation.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from lightly.data import LightlyDataset
from lightly.transforms import BYOLView1Transform, BYOLView2Transform
from lightly.transforms.multi_view_transform import MultiViewTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from speed import photos
from speed.plans import planned
from speed.timing import Row, interleaved, machine, table
from sslkit.data.cache import Cache
from sslkit.data.epochs import Item
from sslkit.data.loader import Loader
from sslkit.data.opening import prepare
from sslkit.data.views import ViewDataset, to_device

CPU = torch.device("cpu")
LARGE, SMALL, CROPS = 224, 96, 4
BATCH = 16
RECIPE = f"""
batch_size = {BATCH}
steps = 1
[source]
use = "folder"
root = '{{root}}'
[sampler]
use = "multi-crop"
local_crops = {CROPS}
global_scale = [0.08, 1.0]
local_scale = [0.08, 1.0]
[backbone]
use = "resnet18"
[heads.main]
projector = {{{{ use = "mlp" }}}}
predictor = {{{{ use = "mlp" }}}}
[heads.dino]
projector = {{{{ use = "dino" }}}}
[objectives.scene-scene]
inputs = {{{{ scene = "global" }}}}
[objectives.crops]
use = "lightly/dino"
head = "dino"
[[augment.global]]
size = {LARGE}
blur = 1.0
interpolation = "{{filter_}}"
[[augment.global]]
size = {LARGE}
blur = 0.1
interpolation = "{{filter_}}"
solarize = 0.2
[[augment.local]]
size = {SMALL}
blur = 1.0
interpolation = "{{filter_}}"
[optimizer]
use = "sgd"
base_lr = 0.1
"""
"""The same views, sizes, scales and augmentation as lightly's transforms below."""


class Ours:
    """A maker of batches as in a run's loader; each call is an epoch further, so that nothing repeats.

    Args:
        root: Folder of the images.
        filter_: Filter that resizes. Lightly's transforms have torchvision's default, "bilinear"; ours is BYOL's,
            "bicubic".
    """

    def __init__(self, root: Path, filter_: str = "bilinear") -> None:
        self.plan, given = planned(RECIPE.format(root=root, filter_=filter_))
        self.source, self.proposals = prepare(self.plan, given)
        self.epochs = itertools.count()

    def dataset(self, colours: bool, cache: Cache | None = None) -> ViewDataset:
        return ViewDataset(self.plan, self.source, self.proposals, colours, cache)

    def one_core(self, count: int, colours: bool, floats: bool = False, cached: bool = False) -> Callable[[], None]:
        """Return a function that makes the views of this many images."""
        cache = Cache(len(self.source), 3 * 640 * 640 * len(self.source)) if cached else None
        dataset = self.dataset(colours, cache)

        def made() -> None:
            epoch = next(self.epochs)
            for first in range(0, count, BATCH):
                batch: Any = dataset[[Item(epoch, image) for image in range(first, min(first + BATCH, count))]]
                if floats:
                    to_device(batch, self.plan.views, CPU)

        return made

    def loader(self, batches: int, workers: int, colours: bool, floats: bool) -> Callable[[], None]:
        """Return a function that starts a loader, takes this many batches from it and ends it."""
        dataset = self.dataset(colours)

        def made() -> None:
            taken = 0
            with Loader(dataset, self.items(batches), workers, CPU) as feed:
                for batch in feed:
                    if floats:
                        to_device(batch, self.plan.views, CPU)
                    taken += 1
            assert taken == batches

        return made

    def items(self, batches: int) -> Iterator[list[Item]]:
        """List images in an order of its own for each epoch."""
        for _ in range(batches):
            epoch = next(self.epochs)
            order = torch.randperm(len(self.source), generator=torch.Generator().manual_seed(epoch)).tolist()
            yield [Item(epoch, image) for image in itertools.islice(itertools.cycle(order), BATCH)]


def transforms() -> list[Callable[[Any], torch.Tensor]]:
    """Return lightly's transforms of the six views."""
    crop = BYOLView1Transform(input_size=SMALL)
    return [BYOLView1Transform(input_size=LARGE), BYOLView2Transform(input_size=LARGE), *[crop] * CROPS]


def lightlys(files: Sequence[bytes]) -> Callable[[], None]:
    """Return a function that makes lightly's views of some images, decoded by Pillow as in its data sets."""
    made = MultiViewTransform(transforms())

    def views() -> None:
        for data in files:
            made(Image.open(io.BytesIO(data)).convert("RGB"))

    return views


def torchvisions(files: Sequence[bytes]) -> Callable[[], None]:
    """Return a function that makes the same views by torchvision's transforms v2 on tensors of bytes."""

    def view(size: int, blur: float, solarize: float) -> v2.Compose:
        return v2.Compose([
            v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(2 * max(1, size // 20) + 1, (0.1, 2.0))], p=blur),
            v2.RandomSolarize(128, p=solarize),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])  # fmt: skip

    made = [view(LARGE, 1.0, 0.0), view(LARGE, 0.1, 0.2), *[view(SMALL, 1.0, 0.0)] * CROPS]

    def views() -> None:
        for data in files:
            image = v2.functional.pil_to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
            for one in made:
                one(image)

    return views


def one_core(root: Path, count: int, n: int) -> list[Row]:
    """Measure images to views on one core, one thread."""
    ours, bicubic = Ours(root), Ours(root, "bicubic")
    count = min(count, len(ours.source))
    files = [ours.source.read(image) for image in range(count)]
    lanes = {
        "lightly's transforms": lightlys(files),
        "torchvision v2, tensors": torchvisions(files),
        "sslkit, float": ours.one_core(count, colours=True, floats=True),
        "sslkit, uint8": ours.one_core(count, colours=True),
        "sslkit, colour on the device": ours.one_core(count, colours=False),
        "sslkit, float, bicubic as by default": bicubic.one_core(count, colours=True, floats=True),
        "sslkit, colour on the device, bicubic": bicubic.one_core(count, colours=False),
        "sslkit, float, --cache-gb": ours.one_core(count, colours=True, floats=True, cached=True),
        "sslkit, colour on the device, --cache-gb": ours.one_core(count, colours=False, cached=True),
    }
    return interleaved("a photo to 2 x 224 + 4 x 96 views, one core", lanes, n, units=count)


class _Repeated(Dataset[Any]):
    """A data set of any length over fewer images."""

    def __init__(self, dataset: LightlyDataset, length: int) -> None:
        self.dataset, self.length = dataset, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index % len(self.dataset)]


def lightlys_loader(root: Path, batches: int, workers: int) -> Callable[[], None]:
    """Return a function that starts lightly's loader as documented, and takes this many batches."""
    dataset = _Repeated(LightlyDataset(str(root), transform=MultiViewTransform(transforms())), batches * BATCH)

    def made() -> None:
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=workers)
        assert sum(1 for _ in loader) == batches

    return made


def loader(root: Path, batches: int, n: int, workers: int = 2) -> list[Row]:
    """Measure images to views through the real loaders, each started anew: the first batch is included."""
    ours = Ours(root)
    lanes = {
        "lightly's loader": lightlys_loader(root, batches, workers),
        "sslkit, float": ours.loader(batches, workers, colours=True, floats=True),
        "sslkit, uint8": ours.loader(batches, workers, colours=True, floats=False),
        "sslkit, colour on the device": ours.loader(batches, workers, colours=False, floats=False),
    }
    what = f"a photo to 2 x 224 + 4 x 96 views, {workers} workers, {batches} batches of {BATCH}, first one included"
    return interleaved(what, lanes, n, units=batches * BATCH, warm=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; scenes are drawn without it")
    parser.add_argument("--count", type=int, default=64, help="photos of a round on one core")
    parser.add_argument("--batches", type=int, default=200, help="of 16 photos through the loader; 0 leaves that out")
    parser.add_argument("-n", type=int, default=5, help="timed rounds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = args.photos or photos.draw(Path(folder), args.count)
        print(table(one_core(root, args.count, args.n)))
        if args.batches:
            print(table(loader(root, args.batches, max(1, args.n // 2))))
    print(machine())


if __name__ == "__main__":
    main()
