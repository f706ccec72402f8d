"""Plan an ablation: each arm at each seed becomes a run with a folder, which is found again by the recipe's hash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslkit.ablation.arms import Arm
from sslkit.ablation.results import State
from sslkit.errors import RecipeError
from sslkit.networks.cost import measure
from sslkit.planning import toml
from sslkit.planning.plan import Plan
from sslkit.planning.planner import make_plan
from sslkit.planning.recipe_file import RecipeFile, check_structure, format_problems
from sslkit.plugins import Plugins
from sslkit.storage import checkpoint
from sslkit.storage.identity import digest
from sslkit.storage.run_folder import RECIPE, RunFolder
from sslkit.training import precision

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]+")
_LONGEST_NAME = 200
"""Letters of an arm's name in the name of its folder; arms that begin alike differ in the hash of their recipe."""


@dataclass
class PlannedRun:
    """One arm at one seed, with its folder.

    Attributes:
        code: Exit code of the run's process in this session; None until the process has ended.
    """

    arm: str
    seed: int
    plan: Plan
    folder: RunFolder
    code: int | None = None

    def write_recipe(self) -> None:
        """Write the resolved recipe into the run's folder, for `sslkit run FOLDER` to train."""
        if not self.folder.resolved():
            self.folder.make()
            self.folder.write_text(RECIPE, toml.dumps(self.plan.resolved()))

    @property
    def state(self) -> State:
        """The state that the run's folder records, or "failed" if the process ended with an error, such as a kill."""
        status = self.folder.status().get("state")
        if status == "finished":
            return "finished"
        if status == "failed" or self.code not in (None, 0, 75):
            return "failed"
        if self.folder.busy:
            return "running"
        return "stopped" if status or checkpoint.latest(self.folder.checkpoints) else "waiting"

    @property
    def reason(self) -> str:
        """Why the run failed, in one line; empty if it did not fail."""
        if self.state != "failed":
            return ""
        reason = str(self.folder.status().get("reason", "")).partition("\n")[0]
        if reason:
            return reason
        return f"killed by signal {-self.code}" if self.code and self.code < 0 else f"exit code {self.code}"


@dataclass
class Variant:
    """One arm with its runs, one per seed.

    Attributes:
        digest: Hash of the arm's resolved recipe at the first seed.
        changes: Dotted key -> (the full recipe's value, this arm's value).
        gflops: Operations of a forward and backward pass per image, in 1e9.
    """

    arm: Arm
    digest: str
    runs: list[PlannedRun]
    changes: Mapping[str, tuple[Any, Any]]
    gflops: float

    @property
    def plan(self) -> Plan:
        """The plan of the first seed."""
        return self.runs[0].plan


@dataclass
class Ablation:
    """All arms at all seeds.

    Attributes:
        variants: The full recipe first; no two resolve to the same recipe.
        notes: Names the arms that resolve to the same recipe as another one.
    """

    full: RecipeFile
    variants: list[Variant]
    seeds: Sequence[int]
    notes: list[str] = field(default_factory=list)

    def runs(self) -> Iterator[PlannedRun]:
        """Yield every run: all arms at the first seed, then all at the second, so that an early table compares all."""
        for place in range(len(self.seeds)):
            yield from (variant.runs[place] for variant in self.variants)

    def write_recipes(self) -> None:
        """Write the resolved recipe of each run into its folder.

        Runs whose precision is chosen by the machine all follow one of them: one that has begun, or else the first.
        """
        for run in self.runs():
            run.write_recipe()
        automatic = [run for run in self.runs() if run.plan.recipe.precision == "auto"]
        begun = [run for run in automatic if precision.recorded(run.folder.resolved())]
        for run in automatic:
            precision.share(run.folder, (begun or automatic)[0].folder)


def plan_ablation(
    full: RecipeFile, arms: Sequence[Arm], first_seed: int, seed_count: int, base: Path, plugins: Plugins
) -> Ablation:
    """Check every arm at every seed and assign a folder: the one its recipe was trained in before, or a new one.

    Args:
        full: The full recipe.
        arms: From `make_arms`; the full recipe first.
        first_seed: First seed. A seed decides the images, the crops and the initial weights that arms share.
        seed_count: Number of seeds, the same for every arm.
        base: Folder of all runs.
        plugins: Plugins to make the plans from.

    Raises:
        RecipeError: Some arms cannot be trained; the message lists every problem of every arm.
    """
    seeds = range(first_seed, first_seed + seed_count)
    known = find_runs(base)
    plans = _plans(arms, seeds, full, plugins)
    resolved = plans["full"][0].resolved()
    variants: list[Variant] = []
    notes: list[str] = []
    names: dict[str, str] = {}
    for arm in arms:
        hash_ = digest(plans[arm.name][0].resolved())
        if hash_ in names:
            if names[hash_] != arm.name:
                notes.append(f"{arm.name} ({arm.option}) resolves to the same recipe as {names[hash_]}: run once")
            continue
        names[hash_] = arm.name
        runs = [
            PlannedRun(arm.name, seed, plan, _folder(base, full.name, arm.name, seed, plan, known))
            for seed, plan in zip(seeds, plans[arm.name], strict=True)
        ]
        changes = {key: (old, new) for key, old, new in toml.differences(resolved, runs[0].plan.resolved())}
        changes = {key: pair for key, pair in changes.items() if not key.startswith("plugins.")}
        variants.append(Variant(arm, hash_, runs, changes, measure(runs[0].plan).flops / 1e9))
    return Ablation(full, variants, seeds, notes)


def _plans(arms: Sequence[Arm], seeds: Sequence[int], full: RecipeFile, plugins: Plugins) -> dict[str, list[Plan]]:
    """Plan every arm at every seed; report the problems of all arms at once."""
    plans: dict[str, list[Plan]] = {}
    complaints = []
    for arm in arms:
        text = arm.recipe_file(full, seeds[0])
        recipe, problems = check_structure(text)
        plan: Plan | None = None
        if recipe is not None:
            plan, problems = make_plan(recipe, plugins)
        if plan is None:
            complaints.append(f"{arm.name}:\n{format_problems(text, problems)}")
            continue
        plans[arm.name] = [_plan(arm, full, seed, plugins) for seed in seeds]
    if complaints:
        raise RecipeError(f"{len(complaints)} of {len(arms)} arms cannot be trained:\n" + "\n".join(complaints))
    return plans


def _plan(arm: Arm, full: RecipeFile, seed: int, plugins: Plugins) -> Plan:
    """Plan a valid arm at a seed."""
    recipe, _ = check_structure(arm.recipe_file(full, seed))
    assert recipe is not None
    plan, _ = make_plan(recipe, plugins)
    assert plan is not None
    return plan


def find_runs(base: Path) -> dict[str, RunFolder]:
    """Return the runs below a folder by the hash of their recipe; of several equal ones, a finished one."""
    folders: dict[str, RunFolder] = {}
    for file in _recipes_below(base):
        folder = RunFolder(file.parent)
        hash_ = folder.digest()
        if hash_ and (hash_ not in folders or folder.status().get("state") == "finished"):
            folders[hash_] = folder
    return folders


def _recipes_below(base: Path) -> list[Path]:
    try:
        return sorted(base.glob(f"*/*/{RECIPE}"))
    except OSError:  # a name that is too long, or a folder that cannot be read: the first run to write there says so
        return []


def _folder(base: Path, recipe: str, arm: str, seed: int, plan: Plan, known: Mapping[str, RunFolder]) -> RunFolder:
    hash_ = digest(plan.resolved())
    if hash_ in known:
        return known[hash_]
    name = _UNSAFE.sub("-", arm)[:_LONGEST_NAME]
    folder = RunFolder.of(base, recipe, name, seed)
    return folder if folder.digest() is None else RunFolder.of(base, recipe, f"{name}-{hash_[:8]}", seed)
