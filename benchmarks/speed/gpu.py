"""On one GPU: our step beside bare passes of the same networks, the peak memory of UniVIP, and the loader's rate.

PYTHONPATH=benchmarks python -m speed.gpu --batch 512 --photos FOLDER

`step` uses images in memory, as bytes on the GPU. It compares a run's optimizer step with forward, forward, backward
and the optimizer of the same networks on normalised images. The run's step includes gradient norm and monitors; it
normalises its images, and in a variant also augments them on the GPU. `memory` is the peak of UniVIP's step, as torch's
allocator counts it. `loader` counts images per second from JPEG files, with one loader process per core but one. Where
it gives more than the step consumes, input is not the limit.

Without a GPU all of it runs on the CPU, to be tested at small sizes; its figures mean nothing there.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speed import photos
from speed.plans import planned
from speed.step import BYOL, ROOT, Ours
from speed.timing import Row, interleaved, machine, ratio, row, table
from sslkit.data.augment import parameters
from sslkit.data.epochs import Epochs
from sslkit.data.loader import Loader
from sslkit.data.opening import prepare
from sslkit.data.views import ViewDataset
from sslkit.folders import cores
from sslkit.planning.plan import Plan
from sslkit.training.hardware import precision_of
from sslkit.training.options import RunOptions

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def done() -> None:
    """Wait until the device has finished."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def options() -> RunOptions:
    """Return options for one device, without the more costly monitors."""
    return RunOptions(accelerator="cuda" if DEVICE == "cuda" else "cpu", devices="1", workers=0, monitor_every=0)


def of_coco(name: str, network: str, batch: int, size: int) -> tuple[str, list[str]]:
    """Return a shipped recipe's text without its source, and the changes to it."""
    text = (ROOT / "recipes" / f"{name}.toml").read_text().replace('root = "data/coco"', "")
    text = text.replace('split = "train2017"', "")
    sizes = [f"augment.scene.{view}.size={size}" for view in (0, 1)]
    return text, [f"batch_size={batch}", f"backbone.use={network}", "source.use=sample-scenes", "probes={}", *sizes]


def step(network: str, size: int, batch: int, n: int, block: int = 10) -> list[Row]:
    """Measure our BYOL step beside bare passes of the same networks, in blocks of steps that fill the GPU's queue."""
    ours, augmenting = (Ours(BYOL.format(network=network, size=size, batch=batch), options=options()) for _ in "ab")
    for one in (ours, augmenting):
        move_images(one)
    bare = bare_step(ours)
    augmenting.ready.batch |= draws(augmenting.setup.plan, batch)

    def steps(one: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(block):
                one()
            done()

        return run

    what = f"BYOL step, {network}, {size} px, batch {batch}, {precision_of(ours.setup.plan.recipe)}"
    lanes = {"bare passes": bare, "sslkit": ours, "sslkit, augmenting": augmenting}
    return interleaved(what, {name: steps(lane) for name, lane in lanes.items()}, n, units=block)


def move_images(ours: Ours) -> None:
    """Move the images in memory to the device."""
    batch = ours.ready.batch
    ours.ready.batch = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in batch.items()}


def draws(plan: Plan, images: int) -> dict[str, Tensor]:
    """Return the random draws for the augmentation of every view, as a loader gives them to a GPU."""
    return {
        f"draws.{group}.{network}": torch.tensor(
            [
                [parameters.draw(view, 0, image, group, place, network) for place, view in enumerate(views)]
                for image in range(images)
            ]
        )
        for (group, network), views in plan.views.items()
    }


def bare_step(ours: Ours) -> Callable[[], None]:
    """Return forward, forward, backward and the optimizer of a step's networks, on copies of its images."""
    network = ours.setup.network
    assert network.target
    views = [
        view.contiguous(memory_format=torch.channels_last)
        for view in ours.normalised()["pixels.scene.online"].unbind(1)
    ]
    online = [network.online.backbone, network.online.projectors["main"], network.online.predictors["main"]]
    target = [network.target.backbone, network.target.projectors["main"]]
    optimizer = torch.optim.SGD([p for part in online for p in part.parameters()], lr=1e-3, fused=True)
    half = precision_of(ours.setup.plan.recipe) == "bf16-mixed"

    def through(parts: list[Any], x: Tensor) -> Tensor:
        x = parts[0](x)["features"]
        for part in parts[1:]:
            x = part(x)
        return x

    def run() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            p = [through(online, view) for view in views]
            with torch.no_grad():
                z = [through(target, view) for view in views]
        loss = sum(-torch.cosine_similarity(a.float(), b.float()).mean() for a, b in zip(p, reversed(z), strict=True))
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()

    return run


def memory(network: str, size: int, batch: int, saving: bool) -> int:
    """Return the peak bytes of two UniVIP steps: of the GPU, or of the whole process on a CPU."""
    text, sets = of_coco("univip_coco", network, batch, size)
    ours = Ours(text, *sets, options=replace(options(), checkpoint_activations=saving))
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        ours()
    done()
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def loader(root: Path, size: int, batch: int, batches: int, workers: int) -> list[Row]:
    """Measure seconds per image of BYOL's views from JPEG to the host's memory, in rounds of one batch per process.

    Processes make whole batches side by side, so batches come in bursts: single ones would look too fast. The first
    round is not counted, in which processes start.

    Args:
        root: Folder of images.
        size: Side of the views.
        batch: Images per batch.
        batches: Timed batches, at the least; two rounds are the fewest.
        workers: Loader processes.
    """
    text, sets = of_coco("byol_coco", "resnet50", batch, size)
    plan, given = planned(text.replace('use = "coco"', f'use = "folder"\nroot = "{root}"'), *sets, "source.use=folder")
    source, proposals = prepare(plan, given)
    dataset = ViewDataset(plan, source, proposals, augment=DEVICE == "cpu")
    epochs = Epochs(len(source), batch, 1, 0, True, 0, 1)
    burst = max(1, workers)
    rounds = max(2, -(-batches // burst))
    seconds = []
    with Loader(dataset, epochs.micro_batches(0, burst * (rounds + 1)), workers, torch.device(DEVICE)) as feed:
        for number in range(rounds + 1):
            began = time.perf_counter()
            for _ in islice(feed, burst):
                pass
            if number:
                seconds.append((time.perf_counter() - began) / (burst * batch))
    return [row(f"BYOL's views from JPEG, 2 x {size}, a photo", f"{workers} loader processes", seconds)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; scenes are drawn without it")
    parser.add_argument("--batches", type=int, default=20, help="of the loader")
    parser.add_argument("--workers", type=int, default=max(1, cores() - 1))
    parser.add_argument("-n", type=int, default=5, help="timed rounds of ten steps")
    args = parser.parse_args()
    taken = step(args.network, args.size, args.batch, args.n)
    for name in ("sslkit", "sslkit, augmenting"):
        print(f"{ratio(taken, name, 'bare passes'):.3f}x  {name}, over the bare passes")
    print(f"\n{table(taken)}\n")
    with tempfile.TemporaryDirectory() as folder:
        root = args.photos or photos.draw(Path(folder), 64)
        fed = loader(root.resolve(), args.size, args.batch, args.batches, args.workers)
    needed = taken[-1]["median_s"] / args.batch
    print(f"{needed / fed[0]['median_s']:.3f}x  what the loader gives over what the step takes\n\n{table(fed)}\n")
    for saving in (False, True):
        peak = memory(args.network, args.size, args.batch, saving)
        print(f"{peak / 2**30:.2f} GiB  UniVIP step at batch {args.batch}" + ", --checkpoint-activations" * saving)
    print(torch.cuda.get_device_name() if DEVICE == "cuda" else "on the CPU", machine())


if __name__ == "__main__":
    main()
