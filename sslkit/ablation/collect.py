"""Collect the results of an ablation from the folders of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkit.ablation.plan import Ablation, PlannedRun, Variant
from sslkit.ablation.results import ArmResult, Results, Trial
from sslkit.contracts.scores import is_rate
from sslkit.probes.evaluate import REFERENCES
from sslkit.storage.run_folder import ENVIRONMENT, PROBES


def collect_results(ablation: Ablation, command: str) -> Results:
    """Read the results so far.

    Args:
        ablation: Planned, with some or all of its runs trained.
        command: Command line that started it.
    """
    arms = [_arm_result(variant) for variant in ablation.variants]
    metrics = dict.fromkeys(name for arm in arms for trial in arm.trials for name in trial.metrics)
    objectives = dict.fromkeys(name for arm in arms for name in arm.objectives)
    varied = dict.fromkeys(variant.arm.varied for variant in ablation.variants if variant.arm.varied)
    versions, differences = _versions(ablation)
    return Results(
        recipe=ablation.full.name, summary=ablation.variants[0].plan.recipe.summary, command=command,
        seeds=tuple(ablation.seeds), arms=arms, objectives=tuple(objectives), varied=tuple(varied),
        metrics=tuple(metrics), versions=versions, notes=(*ablation.notes, *differences),
    )  # fmt: skip


def _arm_result(variant: Variant) -> ArmResult:
    return ArmResult(
        name=variant.arm.name, digest=variant.digest, objectives=list(variant.plan.recipe.objectives),
        changes=variant.changes, gflops=variant.gflops, trials=[_trial(run) for run in variant.runs],
    )  # fmt: skip


def _trial(run: PlannedRun) -> Trial:
    status, state = run.folder.status(), run.state
    step_seconds, seconds = status.get("step_seconds"), status.get("seconds")
    probes = run.folder.read(PROBES, {}) if state == "finished" else {}
    return Trial(
        seed=run.seed, folder=str(run.folder.path), state=state, reason=run.reason,
        metrics=_metrics(probes.get("trained", {})),
        references={name: _metrics(values) for name, values in probes.items() if name in REFERENCES},
        images_per_s=status["images"] / step_seconds if step_seconds else None,
        hours=seconds / 3600 if seconds else None,
        peak_memory=status.get("peak_memory"),
    )  # fmt: skip


def _metrics(probes: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Name metrics "knn top1"; leave out counts and chosen settings, which do not measure quality."""
    return {
        f"{probe} {metric}": value
        for probe, metrics in probes.items()
        for metric, value in metrics.items()
        if is_rate(metric)
    }


def _versions(ablation: Ablation) -> tuple[dict[str, str], list[str]]:
    """Return the versions that the runs used, and a note for each version or piece of hardware that differs."""
    versions: dict[str, dict[str, None]] = {}
    hardware: dict[str, dict[str, None]] = {}
    for run in ablation.runs():
        for session in run.folder.read(ENVIRONMENT, []):
            software = {"sslkit": session["sslkit"], "python": session["python"], **session["packages"]}
            for values, parts in ((versions, software), (hardware, _hardware(session["machine"]))):
                for name, value in parts.items():
                    if value:
                        values.setdefault(name, {})[str(value)] = None
    notes = [f"runs differ in {name}: {', '.join(values)}" for name, values in versions.items() if len(values) > 1]
    notes += [
        f"runs differ in {name}: {', '.join(values)}; this changes the order of sums, and so rounding, at equal seeds"
        for name, values in hardware.items()
        if len(values) > 1
    ]
    return {name: " / ".join(values) for name, values in versions.items()}, notes


def _hardware(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of the machine that the last bits of a run depend on."""
    kind = str(machine["device"]).partition(":")[0]
    parts = ("cpu", "threads") if kind == "cpu" else ("gpu",)
    return {"device": kind, **{name: machine.get(name) for name in (*parts, "processes", "precision", "memory_format")}}
