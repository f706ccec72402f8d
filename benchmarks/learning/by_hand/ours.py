"""The same training by `sslkit run`: the recipe, the command, and the backbones in its checkpoints."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import torch
from learning.by_hand.settings import Settings
from torch import Tensor

import sslkit
from sslkit.networks import StepModule

RECIPE = """\
summary = "BYOL with the settings of the one by hand"
seed = 0
steps = {steps}
batch_size = {batch}
last_batch = "drop"
precision = "32-true"

[source]
use = "sample-scenes"
images = {images}
side = {side}

[sampler]
use = "two-views"
scale = [{scale[0]}, {scale[1]}]

[backbone]
use = "small-resnet"

[heads.main]
projector = {{ use = "mlp", hidden = {hidden}, out = {out}, bias = false, last_norm = {last_norm} }}
predictor = {{ use = "mlp", hidden = {hidden}, bias = false }}

[target]
momentum = {momentum}

[objectives.scene-scene]
weight = 0.5

[[augment.scene]]
{view}

[[augment.scene]]
{view}
solarize = {solarize}

[optimizer]
use = "adamw"
base_lr = {lr}
lr_scaling = "none"
weight_decay = {weight_decay}
warmup_steps = {warmup}
warmup_start = {warmup_start}
"""

VIEW = """\
size = {size}
interpolation = "bilinear"
flip = {flip}
jitter = {jitter_probability}
brightness = {jitter[0]}
contrast = {jitter[1]}
saturation = {jitter[2]}
hue = {jitter[3]}
grayscale = {grayscale}
blur = 0.0"""


def recipe_text(settings: Settings) -> str:
    """Return the recipe with these settings."""
    values = vars(settings) | {"last_norm": str(settings.last_norm).lower()}
    return RECIPE.format(**values, view=VIEW.format(**values))


def train(settings: Settings, seed: int, folder: Path) -> dict[int, dict[str, Tensor]]:
    """Run the command, or resume it, and return the backbone's weights by the number of steps."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "byol.toml"
    recipe.write_text(recipe_text(settings), encoding="utf-8")
    every = math.gcd(*settings.points)
    command = [sys.executable, "-m", "sslkit", "run", str(recipe), "--set", f"seed={seed}", "--runs", str(folder)]
    options = ["--accelerator", "cpu", "--workers", "0", "--save-every", str(every), "--keep-every", "1"]
    subprocess.run([*command, *options, "--monitor-every", "0"], check=True)
    run = folder / "byol" / f"full-s{seed}" / "checkpoints"
    steps = [step for step in settings.points if step]
    initial = {0: initial_weights(recipe, seed)} if 0 in settings.points else {}
    return initial | {step: backbone_weights(run / f"step-{step:08d}.pt") for step in steps}


def backbone_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Return the online backbone's weights in a checkpoint."""
    prefix = "online.backbone."
    model = torch.load(checkpoint, weights_only=True)["model"]
    return {name.removeprefix(prefix): tensor for name, tensor in model.items() if name.startswith(prefix)}


def initial_weights(recipe: Path, seed: int) -> dict[str, Tensor]:
    """Return the weights that the run begins with."""
    network = StepModule(sslkit.plan(sslkit.load(recipe, {"seed": seed})))
    weights: dict[str, Tensor] = network.online.backbone.state_dict()
    return weights
