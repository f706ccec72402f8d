"""Kill runs at random moments, and inside saves, and compare them bit for bit with undisturbed runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from faults.outcome import Fault, Part
from sslkit.errors import SslkitError
from sslkit.verify import resume
from sslkit.verify.resume import ResumeComparison

IMAGES, BATCH, SAVE_EVERY = 64, 8, 2
SOURCE = f"source={{use='sample-scenes',images={IMAGES},side=96}}"
SMALL = ("backbone={use='resnet18',width=8}", f"batch_size={BATCH}", "optimizer.warmup_epochs=1", "probes={}")
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "UniVIP on built-in scenes": ("quickstart", (
        "proposals={use='random-boxes',min_side=16}", "heads.main.projector.hidden=16", "heads.main.projector.out=8",
        "heads.main.predictor.hidden=16",
    )),
    "MoCo v2, a queue": ("lightly/moco_v2", (
        "heads.main.projector.hidden=16", "heads.main.projector.out=8", "objectives.moco.queue=64", "augment.scene.0.size=32",
    )),
    "DINO, a centre": ("lightly/dino", (
        "heads.main.projector.hidden=16", "heads.main.projector.bottleneck=8", "heads.main.projector.out=32",
        "sampler.local_crops=2", "augment.global.0.size=32", "augment.global.1.size=32", "augment.local.0.size=24",
    )),
}  # fmt: skip
"""Name -> a recipe, and the overrides that make it small enough for a CPU."""


def command(name: str, steps: int) -> list[str]:
    """Return the arguments that train a recipe for this many steps, to its end."""
    recipe, own = RECIPES[name]
    sets = (SOURCE, *SMALL, *own, f"epochs={steps * BATCH / IMAGES}")
    given = [part for item in sets for part in ("--set", item)]
    return ["run", recipe, *given, "--save-every", str(SAVE_EVERY), "--workers", "1", "--accelerator", "cpu"]


def judge(name: str, made: ResumeComparison, kills: int, again: str) -> list[Fault]:
    """Say what is wrong with a comparison: bits that differ, or fewer kills than requested."""
    wrong = [
        Fault(name, f"{part} differs: {made.uninterrupted.get(part)} and {made.killed.get(part)}", again)
        for part in made.differs
    ]
    if len(made.kills) < kills:
        wrong.append(Fault(name, f"the run ended after {len(made.kills)} of {kills} kills: take more steps", again))
    return wrong


def campaign(folder: Path, seed: int, kills: int, steps: int, only: Iterable[str] = tuple(RECIPES)) -> Part:
    """Kill runs.

    Args:
        folder: An empty folder.
        seed: Seed of the moments.
        kills: Number of kills of each recipe, every third inside a save.
        steps: Optimizer steps of each run.
        only: Names in `RECIPES`.
    """
    part = Part("kills")
    for number, name in enumerate(only):
        again = f"kills.campaign(folder, seed={seed}, kills={kills}, steps={steps}, only=[{name!r}])"
        where = folder / str(number)
        where.mkdir()
        try:
            made = resume.compare(
                command(name, steps), where, steps, kills, seed, lambda line: print(f"    {line}", flush=True)
            )
        except SslkitError as error:
            part.fault(name, str(error), again)
            continue
        part.cases[name] = len(made.kills)
        part.faults += judge(name, made, kills, again)
        part.figures[name] = {
            "kills": len(made.kills), "inside_a_save": sum(kill.saving for kill in made.kills), "steps": steps,
            "components": len(made.uninterrupted), "components_that_differ": len(made.differs), "hashes": made.uninterrupted,
        }  # fmt: skip
    return part
