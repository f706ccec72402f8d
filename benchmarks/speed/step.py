"""One training step: sslkit beside lightly's documented BYOL, UniVIP beside BYOL, our loop beside a bare one.

PYTHONPATH=benchmarks python -m speed.step byol --network resnet18 --size 96 --batch 32
PYTHONPATH=benchmarks python -m speed.step byol --network resnet50 --size 224 --batch 8
PYTHONPATH=benchmarks python -m speed.step byol --network small-resnet --size 32 --batch 64
PYTHONPATH=benchmarks python -m speed.step byol --network resnet18 --size 32 --batch 8
PYTHONPATH=benchmarks python -m speed.step univip --network resnet50 --batch 8
PYTHONPATH=benchmarks python -m speed.step loop
PYTHONPATH=benchmarks python -m speed.step options
PYTHONPATH=benchmarks python -m speed.step help

Images are noise in memory: reading images is measured elsewhere. Variants take turns step by step, in one process. The
first line of each output is the ratio.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from speed.plans import planned
from speed.timing import Row, apart, interleaved, machine, ratio, table
from sslkit import hookimpl
from sslkit.api import Backbone
from sslkit.data.views import to_device
from sslkit.networks.ema import ema_update
from sslkit.planning.plan import Plan
from sslkit.plugins import Owner, Plugins
from sslkit.storage.run_folder import RunFolder
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.precision import recorded, settle_alone
from sslkit.training.setup import set_up
from sslkit.training.step import TrainStep
from sslkit.training.trainer import Trainer
from sslkit_torchvision.small_resnet import SmallResNet

ROOT = Path(__file__).parent.parent.parent
WIDTHS = {"resnet18": 512, "resnet50": 2048, "small-resnet": 256}

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
"""The recipe of lightly's documentation: widths, loss, learning rate and target momentum."""

SMALLEST = """
steps = 100000
batch_size = 8
precision = "32-true"
[source]
use = "sample-scenes"
[sampler]
use = "two-views"
[backbone]
use = "one-layer"
[heads.main]
projector = { use = "mlp", hidden = 8, out = 8 }
predictor = { use = "mlp", hidden = 8 }
[objectives.scene-scene]
[[augment.scene]]
size = 8
[optimizer]
use = "sgd"
base_lr = 0.01
"""
"""A step in which tensors cost almost nothing, so that the cost of the loop shows."""


class OneLayer(Backbone):
    """A convolution, and the mean over its map."""

    name = "one-layer"
    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": self.layer(x).mean((-1, -2))}


class _Plugin:
    @hookimpl
    def sslkit_backbones(self) -> list[type[Backbone]]:
        return [OneLayer]


def with_one_layer() -> Plugins:
    """Return the installed plugins, and `OneLayer`."""
    plugins = Plugins.load()
    plugins.add(Owner("speed", "sslkit-speed", "1"), _Plugin())
    return plugins


# -------------------------------------------------------------------------------------------------------- ours


class Nothing:
    """A stand-in for images that are never read."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def key(self, index: int) -> str:
        """Name an image."""
        return f"{index}.png"


class Ready:
    """A stand-in for a loader that repeats one batch."""

    def __init__(self, plan: Plan, images: int) -> None:
        noise = torch.Generator().manual_seed(0)
        self.batch: dict[str, Any] = {
            "size": torch.full((images, 2), 256.0), "index": torch.arange(images), "counts": {}, "bad": []
        }  # fmt: skip
        for (group, network), views in plan.views.items():
            shape = (images, len(views), 3, views[0].size, views[0].size)
            pixels = torch.randint(256, (*shape[:2], *shape[3:], 3), generator=noise, dtype=torch.uint8)
            self.batch[f"pixels.{group}.{network}"] = pixels.permute(0, 1, 4, 2, 3)  # the layout that loaders give
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
    """A run's optimizer steps, on images in memory."""

    def __init__(
        self, text: str, *sets: str, options: RunOptions | None = None, plugins: Plugins | None = None
    ) -> None:
        plan, _ = planned(text, *sets, plugins=plugins)
        options = options or RunOptions(accelerator="cpu", workers=0, monitor_every=0)
        plan = settle_alone(plan, options)
        fabric = launch(plan, options)
        images = plan.recipe.batch_size
        source: Any = Nothing(64 * images)
        self.setup = set_up(plan, options, fabric, source, None)
        self.train_step = TrainStep(self.setup)
        self.setup.network.train()
        self.ready = Ready(plan, images)

    def normalised(self) -> dict[str, Any]:
        """Return the batch as the networks see it."""
        return to_device(next(self.ready), self.setup.plan.views, self.setup.device)

    def __call__(self) -> dict[str, float]:
        return self.train_step(self.ready)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- lightly


class Features(nn.Module):
    """The features (n f) of sslkit's small network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallResNet()

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of images (n 3 h w)."""
        return self.network(x)["features"]  # type: ignore[no-any-return]


class Documented(nn.Module):
    """BYOL as lightly's documentation builds it (docs.lightly.ai, "BYOL", PyTorch), for ResNets and our small one."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.backbone = Features() if network == "small-resnet" else _without_classifier(network)
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


def _without_classifier(network: str) -> nn.Module:
    return nn.Sequential(*list(getattr(torchvision.models, network)().children())[:-1])


class Theirs:
    """Take one step of lightly's documented loop, without reading images.

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
    online, target = ours.setup.network.online, ours.setup.network.target
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


# --------------------------------------------------------------------------------------------- measurements


def byol(network: str, size: int, batch: int, n: int) -> list[Row]:
    """Measure BYOL: lightly's as documented, the same with channels last, ours in float32, and ours by default.

    Each has a process of its own. Before timing, both get the same weights, and the losses of their first step must
    agree. The precision and the memory format that are our default here are chosen before the processes start.
    """
    same_work(network, size, batch)
    text = BYOL.format(network=network, size=size, batch=batch)
    chosen = recorded(vars(settle_alone(planned(text)[0], RunOptions(accelerator="cpu")).recipe))
    assert chosen
    print(f"{network}, {size} px, batch {batch}: default is {chosen}", file=sys.stderr)
    lanes = {
        "lightly, documented": (_theirs, (network, size, batch, torch.contiguous_format)),
        "lightly, channels last": (_theirs, (network, size, batch, torch.channels_last)),
        "sslkit, float32": (Ours, (text, "precision=32-true")),
        "sslkit, default": (Ours, (text, *(f"{name}={value}" for name, value in chosen.keys.items()))),
    }
    with apart(lanes) as made:
        return interleaved(f"BYOL step, {network}, {size} px, batch {batch}", made, n)


def _theirs(network: str, size: int, batch: int, layout: torch.memory_format) -> Theirs:
    return Theirs(network, torch.randn(2, batch, 3, size, size).unbind(), layout)


def same_work(network: str, size: int, batch: int) -> None:
    """Check that one step of lightly's and one of ours have the same loss, from the same weights and images."""
    ours = Ours(BYOL.format(network=network, size=size, batch=batch), "precision=32-true")
    views = ours.normalised()["pixels.scene.online"].unbind(1)
    theirs = Theirs(network, views, torch.contiguous_format)
    same_weights(ours, theirs)
    losses = float(theirs()), ours()["loss"]
    assert abs(losses[0] - losses[1]) < 1e-3, f"not the same work: losses {losses}"


def univip(network: str, batch: int, n: int, size: int = 224) -> list[Row]:
    """Measure UniVIP's step beside BYOL's, both ours, as in the recipes for COCO except for smaller batches."""
    more = [f"batch_size={batch}", f"backbone.use={network}", "source.use=sample-scenes"]
    lanes = {}
    for name, file in (("BYOL", "byol_coco"), ("UniVIP", "univip_coco")):
        text = (ROOT / "recipes" / f"{file}.toml").read_text()
        text = text.replace('root = "data/coco"', "").replace('split = "train2017"', "")
        sizes = [f"augment.scene.{view}.size={size}" for view in (0, 1)]
        lanes[name] = Ours(text, *more, *sizes)
    return interleaved(f"step, {network}, 2 x {size} + 4 x 96, batch {batch}", lanes, n)


def loop(n: int) -> list[Row]:
    """Measure our whole loop on the smallest network beside bare loops over the same module.

    Blocks of 50 steps in turn; seconds are per step. All normalise the same bytes, and the module computes its monitors
    in all of them. A bare loop runs forward and backward, steps, and updates the target; the other one also reads back
    the logged values, loss and gradient norm. Our loop also seeds, schedules, measures, checks, snapshots running
    statistics, records, and looks for signals. RankMe and the conflict map, which are due every 50 steps, are left out.
    """
    steps = 50
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "sslkit, whole loop": _run(Path(folder) / "rarely", log_every=steps),
            "sslkit, a record of every step": _run(Path(folder) / "often", log_every=1),
        }
        lanes: dict[str, Callable[[], object]] = {name: partial(_further, run, steps) for name, run in runs.items()}
        for name, reads in (("bare loop", False), ("bare loop that reads loss and gradient norm", True)):
            lanes[name] = partial(_again, _bare(Ours(SMALLEST, plugins=with_one_layer()), reads), steps)
        return interleaved("a step of the smallest network", lanes, n, steps)


def _further(run: Trainer, steps: int) -> None:
    run.steps_until(run.state.step + steps)


def _again(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _run(folder: Path, log_every: int) -> Trainer:
    """Make a run that reports like any other, over images in memory, and saves nothing."""
    plugins = with_one_layer()
    plan, text = planned(SMALLEST, plugins=plugins)
    options = RunOptions(accelerator="cpu", workers=0, save_every=10**9, log_every=log_every, monitor_every=0)
    images = plan.recipe.batch_size
    source: Any = Nothing(64 * images)
    setup = set_up(plan, options, launch(plan, options), source, None)
    run = Trainer(setup, text, plugins, RunFolder(folder))
    run.folder.start(plan, text, 1, "cpu")
    run.reporter.started()
    run.save_when_due = lambda _: None  # type: ignore[method-assign]
    ready: Any = Ready(plan, images)
    setup.loader = lambda *_: ready  # type: ignore[method-assign]
    setup.network.train()
    return run


def _bare(ours: Ours, reads: bool) -> Callable[[], None]:
    """Return the smallest loop body that takes the same step: forward, backward, optimizer, target."""
    network = ours.setup.network
    assert network.target
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    followed = dict(network.online.named_parameters())
    target = [parameter for _, parameter in network.target.named_parameters()]
    online = [followed[name] for name, _ in network.target.named_parameters()]

    def step() -> None:
        loss = network(ours.normalised()).loss
        loss.backward()
        if reads:
            grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
            torch.stack([loss.detach(), torch.nn.utils.get_total_norm(grads)]).tolist()
        optimizer.step()
        optimizer.zero_grad()
        ema_update(target, online, 0.99)

    return step


def help_(n: int) -> list[Row]:
    """Measure `sslkit --help` beside Python that does nothing."""

    def started(*arguments: str) -> Callable[[], object]:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    lanes = {"sslkit --help": started("-m", "sslkit", "--help"), "python": started("-c", "pass")}
    return interleaved("start", lanes, n)


def options(n: int, network: str = "resnet18", size: int = 96, batch: int = 32) -> list[Row]:
    """Measure a BYOL step as it is, with --compile, and with --checkpoint-activations."""
    text = BYOL.format(network=network, size=size, batch=batch)
    lanes: dict[str, RunOptions] = {
        "as it is": RunOptions(accelerator="cpu", workers=0, monitor_every=0),
        "--compile": RunOptions(accelerator="cpu", workers=0, monitor_every=0, compile=True),
        "--checkpoint-activations": RunOptions(
            accelerator="cpu", workers=0, monitor_every=0, checkpoint_activations=True
        ),
    }
    made = {name: Ours(text, options=options) for name, options in lanes.items()}
    return interleaved(f"BYOL step, {network}, {size} px, batch {batch}", made, n)


# ------------------------------------------------------------------------------------------------------ printing


RATIOS = (
    ("equal settings: float32, both channels last", "lightly, channels last", "sslkit, float32"),
    ("float32, lightly as documented (channels first)", "lightly, documented", "sslkit, float32"),
    ("default against default", "lightly, documented", "sslkit, default"),
    ("UniVIP over BYOL", "UniVIP", "BYOL"),
)


def format_ratios(rows: Sequence[Row]) -> str:
    """Format ratios, then the times that they are made of."""
    medians = {item["variant"]: item["median_s"] for item in rows}
    lines = [f"{ratio(rows, a, b):.3f}x  {name}" for name, a, b in RATIOS if {a, b} <= set(medians)]
    if "bare loop" in medians:
        bare = medians.pop("bare loop")
        lines += [
            f"{1e6 * (taken - bare):.0f} microseconds more than a bare loop: {name}" for name, taken in medians.items()
        ]
    return "\n".join([*lines, "", table(rows)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["byol", "univip", "loop", "options", "help"])
    parser.add_argument("--network", choices=list(WIDTHS), default="resnet18")
    parser.add_argument("--size", type=int, default=96, help="of BYOL's views")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("-n", type=int, default=7, help="timed rounds; one more is made before them")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="The `srun` command")
    measured = {
        "byol": lambda: byol(args.network, args.size, args.batch, args.n),
        "univip": lambda: univip(args.network, args.batch, args.n),
        "loop": lambda: loop(args.n), "options": lambda: options(args.n, args.network, args.size, args.batch),
        "help": lambda: help_(args.n),
    }  # fmt: skip
    print(format_ratios(measured[args.what]()))
    print(machine())


if __name__ == "__main__":
    main()
