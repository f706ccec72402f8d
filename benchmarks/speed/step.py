"""One training step: sslkit beside lightly's documented BYOL, UniVIP beside BYOL, our loop beside a bare one.

python benchmarks/speed/step.py byol --network resnet18 --size 96 --batch 32
python benchmarks/speed/step.py byol --network resnet50 --size 224 --batch 8
python benchmarks/speed/step.py univip --network resnet50 --batch 8
python benchmarks/speed/step.py loop
python benchmarks/speed/step.py help

Images are noise that is there already: reading photos is measured elsewhere. What is compared is interleaved, step by
step in turn, in one process. The first line of each is the ratio.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from lightly import __version__ as lightly_version
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from sslkit import __version__, recipe
from sslkit.ema import ema_update
from sslkit.hardware import Hardware, fabric_of
from sslkit.plan import Plan
from sslkit.plugins import Plugins
from sslkit.runfolder import RunFolder
from sslkit.stepping import Stepper
from sslkit.trainer import Trainer
from sslkit.wiring import make_plan

Row = dict[str, Any]
"""`what`, `variant`, `median_s`, `low_s` and `high_s` (the quartiles), `n`."""
ROOT = Path(__file__).parent.parent.parent
WIDTHS = {"resnet18": 512, "resnet50": 2048}

BYOL = """
steps = 100000
batch_size = {batch}
[source]
use = "sample-scenes"
[sampler]
use = "two-views"
[backbone]
use = "{network}"
[heads.main]
projector = {{ use = "mlp", hidden = 1024, out = 256, bias = false }}
predictor = {{ use = "mlp", hidden = 1024, bias = false }}
[target]
momentum = 0.996
[objectives.scene-scene]
weight = 0.5
[[augment.scene]]
size = {size}
[optimizer]
use = "sgd"
base_lr = 0.06
lr_scaling = "none"
momentum = 0.0
weight_decay = 0.0
"""
"""What lightly's documentation builds: widths, loss, learning rate and target momentum."""

TINY = """
steps = 100000
batch_size = 8
precision = "32-true"
[source]
use = "sample-scenes"
[sampler]
use = "two-views"
[backbone]
use = "resnet18"
width = 8
stem = "small"
[heads.main]
projector = { use = "mlp", hidden = 16, out = 16 }
predictor = { use = "mlp", hidden = 16 }
[objectives.scene-scene]
[[augment.scene]]
size = 8
[optimizer]
use = "sgd"
base_lr = 0.01
"""


# ------------------------------------------------------------------------------------------------------ timing


def interleaved(what: str, lanes: Mapping[str, Callable[[], object]], n: int) -> list[Row]:
    """Call every lane in turn, n + 1 times; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in lanes}
    for number in range(n + 1):
        for name in lanes if number % 2 else reversed(lanes):
            began = time.perf_counter()
            lanes[name]()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return [row(what, name, taken) for name, taken in seconds.items()]


def row(what: str, variant: str, seconds: Sequence[float]) -> Row:
    """Summarise."""
    low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [*seconds] * 3
    return {
        "what": what, "variant": variant, "median_s": statistics.median(seconds), "low_s": low, "high_s": high,
        "n": len(seconds),
    }  # fmt: skip


def ratio(rows: Sequence[Row], slow: str, fast: str) -> float:
    """Return how many times as long one variant takes as another."""
    medians = {item["variant"]: item["median_s"] for item in rows}
    return float(medians[slow] / medians[fast])


# -------------------------------------------------------------------------------------------------------- ours


def planned(text: str, *sets: str) -> Plan:
    """Make a plan of a recipe's text, for networks alone: proposals are left out, as nothing is cut."""
    given = recipe.parse(text, "speed", "speed.toml", sets)
    made, problems = recipe.structure(given)
    assert made, recipe.complaint(given, problems)
    plan, problems = make_plan(made, Plugins.load())
    assert plan, recipe.complaint(given, problems)
    return plan


class Nothing:
    """Stands for images that are never read."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def key(self, index: int) -> str:
        """Name an image."""
        return f"{index}.png"


class Ready:
    """Gives the same batch again and again, in place of a loader."""

    def __init__(self, plan: Plan, images: int) -> None:
        noise = torch.Generator().manual_seed(0)
        self.batch: dict[str, Any] = {
            "size": torch.full((images, 2), 256.0), "index": torch.arange(images), "counts": {}, "bad": []
        }  # fmt: skip
        for (group, network), views in plan.views.items():
            shape = (images, len(views), 3, views[0].size, views[0].size)
            self.batch[f"pixels.{group}.{network}"] = torch.randn(shape, generator=noise)
            self.batch[f"boxes.{group}"] = torch.tensor([0.0, 0.0, 256.0, 256.0]).expand(images, len(views), 4)
            self.batch[f"flipped.{group}"] = torch.zeros(images, len(views))

    def __enter__(self) -> Ready:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return dict(self.batch)


class Ours:
    """Takes optimizer steps as a run does, on images that are there already."""

    def __init__(self, text: str, *sets: str, hardware: Hardware | None = None) -> None:
        plan = planned(text, *sets)
        hardware = hardware or Hardware("cpu", workers=0, monitor_every=0)
        fabric = fabric_of(plan, hardware)
        images = plan.recipe.batch_size
        self.stepper = Stepper(plan, hardware, fabric, Nothing(64 * images), None)  # type: ignore[arg-type]
        self.stepper.network.train()
        self.ready = Ready(plan, images)

    def __call__(self) -> dict[str, float]:
        return self.stepper.optimizer_step(self.ready)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- lightly


class Documented(nn.Module):
    """BYOL as lightly's documentation builds it (docs.lightly.ai, "BYOL", PyTorch), for any ResNet."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(getattr(torchvision.models, network)().children())[:-1])
        self.projection_head = BYOLProjectionHead(WIDTHS[network], 1024, 256)
        self.prediction_head = BYOLPredictionHead(256, 1024, 256)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the prediction (n 256) of images (n 3 h w)."""
        p: Tensor = self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))
        return p

    def forward_momentum(self, x: Tensor) -> Tensor:
        """Return the target's projection (n 256)."""
        z: Tensor = self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1))
        return z.detach()


class Theirs:
    """One step of lightly's documented loop, the reading of images left out.

    Args:
        network: "resnet18" or "resnet50".
        views: Two batches of images.
        layout: Memory format of weights and images; the documentation leaves torch's default.
    """

    def __init__(self, network: str, views: Sequence[Tensor], layout: torch.memory_format) -> None:
        self.model = Documented(network).to(memory_format=layout)
        self.criterion = NegativeCosineSimilarity()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.06)
        self.views, self.total, self.layout = views, torch.zeros(()), layout

    def __call__(self) -> Tensor:
        model, m = self.model, 0.996
        update_momentum(model.backbone, model.backbone_momentum, m=m)
        update_momentum(model.projection_head, model.projection_head_momentum, m=m)
        x0, x1 = (view.contiguous(memory_format=self.layout) for view in self.views)
        p0, z0 = model(x0), model.forward_momentum(x0)
        p1, z1 = model(x1), model.forward_momentum(x1)
        loss: Tensor = 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))
        self.total += loss.detach()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def same_weights(ours: Ours, theirs: Theirs) -> None:
    """Copy lightly's initial weights into our networks, tensor by tensor in their order."""
    online, target = ours.stepper.network.online, ours.stepper.network.target
    assert target
    model = theirs.model
    pairs = [
        (online.backbone, model.backbone), (online.projectors, model.projection_head),
        (online.predictors, model.prediction_head), (target.backbone, model.backbone_momentum),
        (target.projectors, model.projection_head_momentum),
    ]  # fmt: skip
    with torch.no_grad():
        for mine, other in pairs:
            for a, b in zip(mine.parameters(), other.parameters(), strict=True):
                a.copy_(b)


# --------------------------------------------------------------------------------------------- what is measured


def byol(network: str, size: int, batch: int, n: int) -> list[Row]:
    """BYOL: lightly's as documented, the same with channels last, ours in float32, and ours as it is by default.

    Before anything is timed, both are given the same weights, and their losses of the first step must agree.
    """
    text = BYOL.format(network=network, size=size, batch=batch)
    ours = {"sslkit, float32": Ours(text, "precision=32-true"), "sslkit, default": Ours(text)}
    views = ours["sslkit, float32"].ready.batch["pixels.scene.online"].unbind(1)
    layouts = {"lightly, documented": torch.contiguous_format, "lightly, channels last": torch.channels_last}
    theirs = {name: Theirs(network, views, layout) for name, layout in layouts.items()}
    for mine in ours.values():
        same_weights(mine, theirs["lightly, documented"])
    losses = float(theirs["lightly, documented"]()), 1 * ours["sslkit, float32"]()["loss"]
    assert abs(losses[0] - losses[1]) < 1e-3, f"not the same work: losses {losses}"
    return interleaved(f"BYOL step, {network}, {size} px, batch {batch}", {**theirs, **ours}, n)


def univip(network: str, batch: int, n: int, size: int = 224) -> list[Row]:
    """UniVIP's step beside BYOL's, both ours, as the recipes for COCO have them, smaller batches apart."""
    more = [f"batch_size={batch}", f"backbone.use={network}", "source.use=sample-scenes"]
    lanes = {}
    for name, file in (("BYOL", "byol_coco"), ("UniVIP", "univip_coco")):
        text = (ROOT / "recipes" / f"{file}.toml").read_text()
        text = text.replace('root = "data/coco"', "").replace('split = "train2017"', "")
        sizes = [f"augment.scene.{view}.size={size}" for view in (0, 1)]
        lanes[name] = Ours(text, *more, *sizes)
    return interleaved(f"step, {network}, 2 x {size} + 4 x 96, batch {batch}", lanes, n)


def loop(n: int) -> list[Row]:
    """Our whole loop on a tiny network, with metrics and display, beside a bare loop over the same module.

    Blocks of 20 steps in turn; seconds are per step.
    """
    steps = 20
    with tempfile.TemporaryDirectory() as folder:
        run = _run(Path(folder) / "run")
        bare = _bare(Ours(TINY))

        def ours() -> None:
            run.steps_until(run.step + steps)

        def theirs() -> None:
            for _ in range(steps):
                bare()

        rows = interleaved("a step of a tiny network", {"sslkit, whole loop": ours, "bare loop": theirs}, n)
    for item in rows:
        item |= {name: item[name] / steps for name in ("median_s", "low_s", "high_s")}
    return rows


def _run(folder: Path) -> Trainer:
    """Make a run that reports as any other, over images that are there already, and that saves nothing."""
    plan, plugins = planned(TINY), Plugins.load()
    hardware = Hardware("cpu", workers=0, save_every=10**9)
    images = plan.recipe.batch_size
    source: Any = Nothing(64 * images)
    text = recipe.parse(TINY, "speed", "speed.toml", ())
    run = Trainer(plan, text, plugins, RunFolder(folder), hardware, fabric_of(plan, hardware), source, None)
    run.folder.start(plan, text, 1, "cpu")
    run.tell("sslkit_run_started")
    run.save_when_due = lambda _: None  # type: ignore[method-assign]
    ready: Any = Ready(plan, images)
    run.stepper.feed = lambda _: ready  # type: ignore[method-assign]
    run.stepper.network.train()
    return run


def _bare(ours: Ours) -> Callable[[], None]:
    """Return the least that takes the same step: forward, backward, optimizer, target."""
    network, batch = ours.stepper.network, ours.ready.batch
    assert network.target
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    followed = dict(network.online.named_parameters())
    target = [held for _, held in network.target.named_parameters()]
    online = [followed[name] for name, _ in network.target.named_parameters()]

    def step() -> None:
        network(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema_update(target, online, 0.99)

    return step


def help_(n: int) -> list[Row]:
    """`sslkit --help`, beside Python that does nothing."""

    def started(*arguments: str) -> Callable[[], object]:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    lanes = {"sslkit --help": started("-m", "sslkit", "--help"), "python": started("-c", "pass")}
    return interleaved("start", lanes, n)


# ------------------------------------------------------------------------------------------------------ printing


def machine() -> str:
    """Say on what all of this was measured."""
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"sslkit {__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"lightly {lightly_version}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )


RATIOS = (
    ("equal settings: float32, both channels last", "lightly, channels last", "sslkit, float32"),
    ("float32, lightly as documented (channels first)", "lightly, documented", "sslkit, float32"),
    ("default against default", "lightly, documented", "sslkit, default"),
    ("UniVIP over BYOL", "UniVIP", "BYOL"),
)


def told(rows: Sequence[Row]) -> str:
    """Write ratios, then what they are made of."""
    names = {item["variant"] for item in rows}
    lines = [f"{ratio(rows, a, b):.3f}x  {name}" for name, a, b in RATIOS if {a, b} <= names]
    if {"sslkit, whole loop", "bare loop"} <= names:
        medians = {item["variant"]: item["median_s"] for item in rows}
        lines.append(
            f"{1e6 * (medians['sslkit, whole loop'] - medians['bare loop']):.0f} microseconds  cost of our loop"
        )
    for item in rows:
        low, mid, high = (1e3 * item[f"{name}_s"] for name in ("low", "median", "high"))
        lines.append(
            f"    {mid:.4g} ms (quartiles {low:.4g} to {high:.4g}, n = {item['n']})  {item['what']}: {item['variant']}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["byol", "univip", "loop", "help"])
    parser.add_argument("--network", choices=list(WIDTHS), default="resnet18")
    parser.add_argument("--size", type=int, default=96, help="of BYOL's views")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("-n", type=int, default=7, help="timed rounds; one more is made before them")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="The `srun` command")
    measured = {
        "byol": lambda: byol(args.network, args.size, args.batch, args.n),
        "univip": lambda: univip(args.network, args.batch, args.n),
        "loop": lambda: loop(args.n), "help": lambda: help_(args.n),
    }  # fmt: skip
    print(told(measured[args.what]()))
    print(machine())


if __name__ == "__main__":
    main()
