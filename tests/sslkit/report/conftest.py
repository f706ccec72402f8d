"""An ablation with long names, varied keys, a hole, a failure, references and curves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sslkit.ablation.results import ArmResult, Results, Trial

SEEDS = (0, 1, 2)
METRICS = ("knn top1", "knn balanced", "knn chance", "linear top1")
OBJECTIVES = ("scene-scene", "scene-instance", "instance-instance")
REASON = "step 41: scene-scene.loss = nan <not finite> & 100 % of the_batch is ~0 ^ {see} $HOME\\run #3"
GIB = 2**30


def curves(folder: Path, steps: int, seed: int, level: float, objectives: tuple[str, ...]) -> None:
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        falling = level + 2 * math.exp(-step / (steps / 6))
        terms = {f"{name}.loss": falling + i / 3 + 0.1 * rng.normal() for i, name in enumerate(objectives)}
        monitors = {"feature_std": 0.4 * (1 - math.exp(-step / 200)), "lr": 0.1 * math.sin(math.pi * step / steps)}
        record = {"step": step, "epoch": step / 50, "loss": sum(terms.values()), **terms, **monitors}
        record["sampler.overlap"] = None if 100 < step < 140 else 0.3 + 0.05 * rng.normal()
        lines.append(json.dumps(record) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 10000, "lo')


def trial(base: Path, arm: str, seed: int, effect: float, cost: float) -> Trial:
    rng = np.random.default_rng([seed, len(arm)])
    shared = 0.01 * np.random.default_rng(seed).normal()
    top1 = 0.713 + shared + effect + 0.003 * rng.normal()
    metrics = {"knn top1": top1, "knn balanced": top1 - 0.05, "knn chance": 0.125 + seed / 1000,
               "linear top1": top1 + 0.06 + 0.002 * rng.normal()}  # fmt: skip
    references = {
        name: {key: (value if key == "knn chance" else value - less) for key, value in metrics.items()}
        for name, less in (("random weights", 0.31), ("raw pixels", 0.37))
    }
    return Trial(seed, str(base / f"{arm}-s{seed}"), "finished", "", metrics, references, 812.4 / cost, 1.37 * cost,
                 int(5.3 * cost * GIB))  # fmt: skip


def make_results(base: Path, steps: int = 400) -> Results:
    """Return five arms at three seeds, and write their curves below a folder."""
    changed = {
        "full": {},
        "drop-instance-instance": {"objectives.instance-instance.weight": (1.0, None),
                                   "objectives.instance-instance.use": ("univip/instance-instance", None)},
        "sampler.instances=2": {"sampler.instances": (4, 2)},
        "scene-scene-to-vicreg-with-a-long-name": {"objectives.vicreg.use": (None, "lightly/vicreg"),
                                                   "augment.scene.0.size": ([64, 64], [96, 96])},
        "drop-scene-instance+instance-instance": {"objectives.scene-instance.weight": (0.5, None)},
    }  # fmt: skip
    objectives = [OBJECTIVES, OBJECTIVES[:2], OBJECTIVES, ("vicreg", *OBJECTIVES[1:]), OBJECTIVES[:1]]
    effects, costs = [0, -0.031, 0.004, 0.001, -0.06], [1, 0.7, 0.8, 1.2, 0.4]
    arms = []
    for i, (name, changes) in enumerate(changed.items()):
        trials = [trial(base, name, seed, effects[i], costs[i]) for seed in SEEDS]
        for item in trials:
            curves(Path(item.folder), steps, item.seed + 10 * i, 1 + i / 5, objectives[i])
        arms.append(ArmResult(name, f"{i:016x}", objectives[i], changes, 3.21 * costs[i], tuple(trials)))
    arms[3] = hole(arms[3], 1, "failed", REASON)
    arms[4] = hole(arms[4], 2, "stopped")
    return Results(
        recipe="quickstart", summary="UniVIP on the built-in scenes, in minutes",
        command="sslkit ablate --drop instance-instance --vary 'sampler.instances=2,4' --seeds 3",
        seeds=SEEDS, arms=tuple(arms), objectives=("scene-scene", "vicreg", *OBJECTIVES[1:]),
        varied=("sampler.instances",), metrics=METRICS,
        versions={"sslkit": "0.1.0", "torch": "2.15.0", "lightly": "1.6.0", "numpy": "2.4.6 / 2.4.5"},
        notes=("sampler.instances=4 resolves to the same recipe as full: run once",),
    )  # fmt: skip


def hole(arm: ArmResult, seed: int, state: str, reason: str = "") -> ArmResult:
    trials = [replace(item, state=state, reason=reason, metrics={}, references={}, hours=None) if item.seed == seed
              else item for item in arm.trials]  # fmt: skip
    return replace(arm, trials=tuple(trials))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return make_results(tmp_path / "runs")
