"""Train a recipe's backbone with labels, as the ceiling of a study: python -m learning.ceiling RECIPE OUT [SEEDS].

For each set of labelled crops that the recipe's probes measure on, the same network is trained on the probes' own
training crops with their labels, for as many images as the recipe trains on; then the probes measure its features. The
loss is cross-entropy, or with sets of labels one sigmoid per category. Augmentation is torchvision's: crops of 25 to
100 % of the area, flips and mild colour jitter. One learning rate per data set, the better of two on a tenth of the
training images, which are then trained on as well. Results are added to OUT one by one, and those already there are
not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from learning.arguments import count
from torch import Tensor, nn
from torchvision.transforms import v2

from sslkit import targets
from sslkit.data.epochs import Epochs
from sslkit.data.opening import open_source
from sslkit.errors import SslkitError
from sslkit.planning.plan import Plan, ProbePlan, ProbingPlan
from sslkit.planning.recipe import View
from sslkit.plugins import Plugins
from sslkit.probes.crops import Crops
from sslkit.probes.evaluate import ProbeEvaluator
from sslkit.seeds import torch_seeded

LRS = (1e-3, 4e-3)
WEIGHT_DECAY = 0.05
JITTER = (0.4, 0.4, 0.4, 0.1)


@dataclass
class Examples:
    """Labelled crops in memory: pixels uint8 (n 3 s s), labels (n) or (n c), images (n), a mask of unclear labels."""

    pixels: Tensor
    labels: Tensor
    images: Tensor
    ignored: Tensor | None

    @classmethod
    def of(cls, crops: Crops) -> Examples:
        """Return the readable training crops."""
        pixels = torch.cat(list(crops.batches()))
        side = ~crops.test & crops.readable
        ignored = None if crops.ignored is None else crops.ignored[side]
        return cls(pixels[side], crops.labels[side], crops.images[side], ignored)

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Return the rows to fit and those of the images that are held out."""
        image = torch.unique(self.images, return_inverse=True)[1]
        out = torch.rand(int(image.max()) + 1, generator=torch.Generator().manual_seed(seed)) < share
        return torch.nonzero(~out[image])[:, 0], torch.nonzero(out[image])[:, 0]

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of logits (b c)."""
        if self.labels.ndim == 1:
            return F.cross_entropy(logits, self.labels[rows])
        known = torch.ones_like(logits) if self.ignored is None else (~self.ignored[rows]).float()
        return F.binary_cross_entropy_with_logits(logits, self.labels[rows].float(), known)


def train(plan: Plan, data: Examples, rows: Tensor, classes: int, lr: float, steps: int) -> nn.Sequential:
    """Train backbone and classifier on these rows; AdamW, a tenth of the steps as warm-up, then a cosine to 0."""
    seed = plan.recipe.seed
    with torch_seeded(seed, "backbone"):
        net = nn.Sequential(plan.backbone.make(), nn.Linear(plan.backbone.make().dim, classes))
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1, final_div_factor=1e6)
    side, view = data.pixels.shape[-1], plan.probing.view
    augment = v2.Compose([
        v2.RandomResizedCrop(side, (0.25, 1), antialias=True), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*JITTER)], 0.8),
    ])  # fmt: skip
    torch.manual_seed(seed)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (plan.recipe.batch_size,))]
        x = torch.stack([augment(image) for image in data.pixels[batch]])
        loss = data.loss(net[1](net[0](normalise(x, view))["features"]), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def normalise(pixels: Tensor, view: View) -> Tensor:
    """Normalise uint8 pixels as in training."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (view.mean, view.std))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def held_out_loss(net: nn.Sequential, data: Examples, rows: Tensor, view: View) -> float:
    """Return the mean loss on these rows, without augmentation."""
    logits = [net[1](net[0](normalise(data.pixels[part], view))["features"]) for part in rows.split(512)]
    return data.loss(torch.cat(logits), rows).item()


def steps_of(plan: Plan) -> int:
    """Return the optimizer steps that the recipe trains for."""
    return plan.recipe.steps or plan.recipe.total_steps(Epochs.of(plan.recipe, len(open_source(plan.source))).steps)


def ceiling(plan: Plan, probing: ProbingPlan, steps: int) -> dict[str, dict[str, float]]:
    """Train on the crops of probes that share them, and return these probes' scores of the trained features."""
    evaluator, seed = ProbeEvaluator(probing), plan.recipe.seed
    crops = next(iter(evaluator.crops.values()))
    data, classes = Examples.of(crops), len(crops.categories)
    fit, held_out = data.split(0.1, seed)
    tried = {lr: train(plan, data, fit, classes, lr, steps // 4) for lr in LRS}
    lr = min(LRS, key=lambda lr: held_out_loss(tried[lr], data, held_out, probing.view))
    net = train(plan, data, torch.arange(len(data.labels)), classes, lr, steps)
    scores = evaluator.measure_backbone(net[0], torch.device("cpu"))
    return {name: {**metrics, "chosen_training_lr": lr} for name, metrics in scores.items()}


def main(recipe: str, out: Path, seeds: int = 3) -> None:
    """Fill the file with every probe's ceiling at every seed."""
    plugins = Plugins.load()
    done: dict[str, dict[str, dict[str, float]]] = json.loads(out.read_text()) if out.exists() else {}
    for seed in range(seeds):
        plan, _ = targets.load(recipe, [f"seed={seed}"], plugins, data=True)
        row = done.setdefault(str(seed), {})
        groups: dict[str, dict[str, ProbePlan]] = {}
        for name, item in plan.probes.items():
            groups.setdefault(item.shared, {})[name] = item
        for probes in groups.values():
            if not probes.keys() <= row.keys():
                row |= ceiling(plan, replace(plan.probing, probes=probes), steps_of(plan))
                out.write_text(json.dumps(done, indent=2) + "\n")
                print(f"seed {seed}: {', '.join(probes)}", flush=True)


def command(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m learning.ceiling", description=__doc__, formatter_class=layout)
    parser.add_argument("recipe", help="a recipe with probes")
    parser.add_argument("out", type=Path, help="the JSON file to add to")
    parser.add_argument("seeds", type=count, nargs="?", default=3, help="seeds (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        main(options.recipe, options.out, options.seeds)
    except SslkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(command())
