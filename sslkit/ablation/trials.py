"""Arms times seeds: checked, given a folder by the hash of their recipe, and read back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslkit.ablation.arms import Arm
from sslkit.ablation.results import ArmResult, Results, State, Trial
from sslkit.errors import RecipeError
from sslkit.networks.cost import measure
from sslkit.planning import recipe as recipes
from sslkit.planning import toml
from sslkit.planning.plan import Plan
from sslkit.planning.planner import make_plan
from sslkit.planning.recipe import RecipeFile
from sslkit.plugins import Plugins
from sslkit.probes.evaluate import is_rate
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder, digest

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]+")


@dataclass
class PlannedRun:
    """One arm at one seed, with its folder.

    Attributes:
        code: Exit code of its process in this session, once it has ended.
    """

    arm: str
    seed: int
    plan: Plan
    folder: RunFolder
    code: int | None = None

    def write_recipe(self) -> None:
        """Put the resolved recipe into its folder, so that `sslkit run FOLDER` trains exactly that."""
        if not self.folder.recipe.exists():
            self.folder.path.mkdir(parents=True, exist_ok=True)
            self.folder.write_text("recipe.toml", toml.dumps(self.plan.resolved()))

    @property
    def state(self) -> State:
        """What its folder says, and what its process's end adds: a process that was killed says nothing itself."""
        said = self.folder.status().get("state")
        if said == "finished":
            return "finished"
        if said == "failed" or self.code not in (None, 0, 75):
            return "failed"
        if self.folder.busy:
            return "running"
        return "stopped" if said or checkpoint.latest(self.folder.checkpoints) else "waiting"

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        if self.state != "failed":
            return ""
        said = str(self.folder.status().get("reason", "")).partition("\n")[0]
        if said:
            return said
        return f"killed by signal {-self.code}" if self.code and self.code < 0 else f"exit code {self.code}"


@dataclass
class Variant:
    """One arm with its runs, one for each seed.

    Attributes:
        changes: Dotted key -> (the full recipe's value, this arm's value).
    """

    arm: Arm
    digest: str
    runs: list[PlannedRun]
    changes: Mapping[str, tuple[Any, Any]]
    gflops: float

    @property
    def plan(self) -> Plan:
        """Of the first seed."""
        return self.runs[0].plan


@dataclass
class Ablation:
    """Everything that is to be trained.

    Attributes:
        variants: The full recipe first; no two resolve to the same recipe.
        notes: Arms that resolve to the same recipe as another.
    """

    full: RecipeFile
    variants: list[Variant]
    seeds: Sequence[int]
    notes: list[str] = field(default_factory=list)

    def runs(self) -> Iterator[PlannedRun]:
        """Yield every run: all arms of the first seed, then of the second, so that an early table is fair."""
        for place in range(len(self.seeds)):
            yield from (variant.runs[place] for variant in self.variants)


def make(full: RecipeFile, arms: Sequence[Arm], first: int, count: int, base: Path, plugins: Plugins) -> Ablation:
    """Check every arm at every seed and give it a folder: the one that its recipe was trained in, or a new one.

    Args:
        full: The recipe.
        arms: Of `sslkit.ablation.arms`; the full recipe first.
        first: Seed; it decides images, crops and the initial weights that arms share.
        count: Of seeds, the same for every arm.
        base: Folder of all runs.
        plugins: That plans are made of.

    Raises:
        RecipeError: With every problem of every arm.
    """
    seeds = range(first, first + count)
    known = existing(base)
    plans = _plans(arms, seeds, full, plugins)
    resolved = plans["full"][0].resolved()
    variants: list[Variant] = []
    notes: list[str] = []
    taken: dict[str, str] = {}
    for arm in arms:
        hashed = digest(plans[arm.name][0].resolved())
        if hashed in taken:
            if taken[hashed] != arm.name:
                notes.append(f"{arm.name} ({arm.asked}) resolves to the same recipe as {taken[hashed]}: run once")
            continue
        taken[hashed] = arm.name
        runs = [
            PlannedRun(arm.name, seed, plan, _folder(base, full.name, arm.name, seed, plan, known))
            for seed, plan in zip(seeds, plans[arm.name], strict=True)
        ]
        changes = {key: (old, new) for key, old, new in toml.differences(resolved, runs[0].plan.resolved())}
        changes = {key: pair for key, pair in changes.items() if not key.startswith("plugins.")}
        variants.append(Variant(arm, hashed, runs, changes, measure(runs[0].plan).flops / 1e9))
    return Ablation(full, variants, seeds, notes)


def _plans(arms: Sequence[Arm], seeds: Sequence[int], full: RecipeFile, plugins: Plugins) -> dict[str, list[Plan]]:
    """Make every plan; complain about all arms at once."""
    plans: dict[str, list[Plan]] = {}
    complaints = []
    for arm in arms:
        text = arm.text(full, seeds[0])
        recipe, problems = recipes.structure(text)
        plan: Plan | None = None
        if recipe is not None:
            plan, problems = make_plan(recipe, plugins)
        if plan is None:
            complaints.append(f"{arm.name}:\n{recipes.complaint(text, problems)}")
            continue
        plans[arm.name] = [_seeded(arm, full, seed, plugins) for seed in seeds]
    if complaints:
        raise RecipeError(f"{len(complaints)} of {len(arms)} arms cannot be trained:\n" + "\n".join(complaints))
    return plans


def _seeded(arm: Arm, full: RecipeFile, seed: int, plugins: Plugins) -> Plan:
    recipe, _ = recipes.structure(arm.text(full, seed))
    assert recipe is not None
    plan, _ = make_plan(recipe, plugins)
    assert plan is not None
    return plan


def existing(base: Path) -> dict[str, RunFolder]:
    """Return the runs below a folder by the hash of what made them; of several, one that is finished."""
    found: dict[str, RunFolder] = {}
    for file in sorted(base.glob("*/*/recipe.toml")):
        folder = RunFolder(file.parent)
        hashed = folder.digest()
        if hashed and (hashed not in found or folder.status().get("state") == "finished"):
            found[hashed] = folder
    return found


def _folder(base: Path, recipe: str, arm: str, seed: int, plan: Plan, known: Mapping[str, RunFolder]) -> RunFolder:
    hashed = digest(plan.resolved())
    if hashed in known:
        return known[hashed]
    name = _UNSAFE.sub("-", arm)
    folder = RunFolder.of(base, recipe, name, seed)
    return folder if folder.digest() is None else RunFolder.of(base, recipe, f"{name}-{hashed[:8]}", seed)


def write_recipes(ablation: Ablation) -> None:
    """Put each run's resolved recipe into its folder."""
    for run in ablation.runs():
        run.write_recipe()


# ------------------------------------------------------------------------------------------------ what came of it


def results(ablation: Ablation, command: str) -> Results:
    """Read what the runs came to so far."""
    arms = [_result(variant) for variant in ablation.variants]
    metrics = dict.fromkeys(name for arm in arms for trial in arm.trials for name in trial.metrics)
    objectives = dict.fromkeys(name for arm in arms for name in arm.objectives)
    varied = dict.fromkeys(variant.arm.varied for variant in ablation.variants if variant.arm.varied)
    versions, differing = _versions(ablation)
    return Results(
        recipe=ablation.full.name, summary=ablation.variants[0].plan.recipe.summary, command=command,
        seeds=tuple(ablation.seeds), arms=arms, objectives=tuple(objectives), varied=tuple(varied),
        metrics=tuple(metrics), versions=versions, notes=(*ablation.notes, *differing),
    )  # fmt: skip


def _result(variant: Variant) -> ArmResult:
    return ArmResult(
        name=variant.arm.name, digest=variant.digest, objectives=list(variant.plan.recipe.objectives),
        changes=variant.changes, gflops=variant.gflops, trials=[_trial(run) for run in variant.runs],
    )  # fmt: skip


def _trial(run: PlannedRun) -> Trial:
    status, state = run.folder.status(), run.state
    rate, seconds = status.get("step_seconds"), status.get("seconds")
    figures = run.folder.read("probes.json", {}) if state == "finished" else {}
    return Trial(
        seed=run.seed, folder=str(run.folder.path), state=state, reason=run.reason,
        metrics=_metrics(figures.get("trained", {})),
        references={name: _metrics(found) for name, found in figures.items() if name != "trained"},
        images_per_s=status["images"] / rate if rate else None,
        hours=seconds / 3600 if seconds else None,
        peak_memory=status.get("peak_memory"),
    )  # fmt: skip


def _metrics(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Name figures "knn top1"; counts and choices, which are no figures of merit, are left out."""
    return {
        f"{probe} {metric}": value
        for probe, found in figures.items()
        for metric, value in found.items()
        if is_rate(metric)
    }


def _versions(ablation: Ablation) -> tuple[dict[str, str], list[str]]:
    """Return what the runs were made with, and a note for each version and each part of the machine that differs."""
    versions: dict[str, dict[str, None]] = {}
    hardware: dict[str, dict[str, None]] = {}
    for run in ablation.runs():
        for session in run.folder.read("environment.json", []):
            said = {"sslkit": session["sslkit"], "python": session["python"], **session["packages"]}
            for found, parts in ((versions, said), (hardware, _hardware(session["machine"]))):
                for name, value in parts.items():
                    if value:
                        found.setdefault(name, {})[str(value)] = None
    differing = [f"runs differ in {name}: {', '.join(seen)}" for name, seen in versions.items() if len(seen) > 1]
    differing += [
        f"runs differ in {name}: {', '.join(seen)}; sums are rounded in another order there, also at equal seeds"
        for name, seen in hardware.items()
        if len(seen) > 1
    ]
    return {name: " / ".join(seen) for name, seen in versions.items()}, differing


def _hardware(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the last bits of a run depend on."""
    kind = str(machine["device"]).partition(":")[0]
    own = ("cpu", "threads") if kind == "cpu" else ("gpu",)
    return {"device": kind, **{name: machine.get(name) for name in (*own, "processes", "precision")}}
