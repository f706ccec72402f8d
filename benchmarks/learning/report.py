"""Write a study's page: python -m learning.report OUT NAME=RESULTS ... [--ceiling FILE], in the benchmarks folder.

RESULTS is the folder that `sslkit ablate --out` wrote, NAME what its full recipe is called. Curves and the sampler's
counts are read from the runs' folders, as far as they are still there, and kept in OUT/runs.json. Written are
OUT/tables.md, OUT/curves.png and OUT/curves.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from learning.arguments import study

from sslkit.ablation import statistics
from sslkit.ablation.results import ArmResult, Results, Trial, load

mpl.use("Agg")
from matplotlib import pyplot as plt

MAIN = (" top1", " map")
SAMPLER = {"sampler.fallback": "fallback", "sampler.filled": "made-up boxes per image"}
Runs = dict[str, Any]
"""Folder of a run -> its curves and the sampler's counts."""


def main(out: Path, studies: Mapping[str, Path], root: Path, ceiling: Path | None) -> None:
    """Write tables and figure of several ablations."""
    results = {name: load(json.loads((folder / "results.json").read_text())) for name, folder in studies.items()}
    out.mkdir(parents=True, exist_ok=True)
    runs = _runs(out / "runs.json", results.values(), root)
    ceilings = json.loads(ceiling.read_text()) if ceiling else {}
    parts = [f"## {name}\n\n{table(item, ceilings)}\n{sampler_table(item, runs)}" for name, item in results.items()]
    (out / "tables.md").write_text("\n".join(parts), encoding="utf-8")
    curves = {f"{study}, {arm.name}": _curves(arm, runs) for study, item in results.items() for arm in item.arms}
    _write_csv(out / "curves.csv", curves)
    draw(out / "curves.png", {name: curve for name, curve in curves.items() if curve}, runs)


def _runs(file: Path, studies: Sequence[Results] | Any, root: Path) -> Runs:
    """Return what is known of each run, after adding what its folder holds."""
    known: Runs = json.loads(file.read_text()) if file.exists() else {}
    for trial in (trial for item in studies for arm in item.arms for trial in arm.trials):
        metrics = root / trial.folder / "metrics.jsonl"
        if trial.state == "finished" and metrics.exists():
            known[trial.folder] = _read(metrics)
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return known


def _read(metrics: Path) -> dict[str, Any]:
    """Return a run's online probes, and the mean of the sampler's counts over its epochs."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    batch = json.loads((metrics.parent / "status.json").read_text())["images"] / rows[-1]["step"]
    online = metrics.parent / "online_probes.json"
    baselines = json.loads(online.read_text())["probes"] if online.exists() else {}
    points: dict[str, list[list[float]]] = {}
    for row in rows:
        for name in (name for name in row if name.startswith("probe.")):
            points.setdefault(name, []).append([row["step"] * batch, row[name]])
    counts = {name: float(np.mean([row[name] for row in rows if name in row] or [np.nan])) for name in SAMPLER}
    return {
        "points": points, "sampler": {name: value for name, value in counts.items() if np.isfinite(value)},
        "baselines": {f"probe.{name}.{item['metric']}": item["baselines"] for name, item in baselines.items()},
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ tables


def table(results: Results, ceilings: Mapping[str, Any]) -> str:
    """Return Markdown: mean and standard deviation, and below them the paired difference to full with its interval.

    The last column is the mean of all others.
    """
    shown = [name for name in results.metrics if name.endswith(MAIN)]
    rows = [["%", *shown, "mean"], ["---", *["---:"] * (len(shown) + 1)]]
    of_full = _readers(shown, statistics.metric_reader)
    rows += [[arm.name, *(_cell(results, arm, read, read) for read in of_full)] for arm in results.arms]
    for features in statistics.reference_names(results):
        reads = _readers(shown, partial(statistics.reference_reader, features))
        pairs = zip(reads, of_full, strict=True)
        rows.append([features, *(_cell(results, results.full, *pair) for pair in pairs)])
    if ceilings:
        rows.append(["trained with labels", *(_ceiling(ceilings, names) for names in [*zip(shown), shown])])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _readers(names: Sequence[str], make: Callable[[str], statistics.Reader]) -> list[statistics.Reader]:
    """Return one reader per metric, and one of their mean, which needs them all."""
    reads = [make(name) for name in names]

    def of_mean(trial: Trial) -> float | None:
        values = [value for value in (read(trial) for read in reads) if value is not None]
        return float(np.mean(values)) if len(values) == len(reads) else None

    return [*reads, of_mean]


def _cell(results: Results, arm: ArmResult, read: statistics.Reader, of_full: statistics.Reader) -> str:
    mean = statistics.mean(arm, read)
    if mean is None:
        return "not finished"
    words = _mean([value for value in statistics.seed_values(arm, read) if value is not None])
    versus = statistics.difference(arm, read, results.full, of_full)
    if (arm is results.full and read is of_full) or versus is None or versus.low is None or versus.high is None:
        return words
    bold = "**" if versus.excludes_zero else ""
    return f"{words}<br>{bold}{100 * versus.value:+.1f} [{100 * versus.low:+.1f}, {100 * versus.high:+.1f}]{bold}"


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def _ceiling(ceilings: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return the mean of these metrics, over the seeds that have them all."""
    places = [(probe, name) for probe, _, name in (metric.partition(" ") for metric in metrics)]
    known = [row for row in ceilings.values() if all(probe in row for probe, _ in places)]
    return _mean([float(np.mean([row[probe][name] for probe, name in places])) for row in known]) if known else ""


def sampler_table(results: Results, runs: Runs) -> str:
    """Return Markdown: how often each arm's sampler fell back, and how many of its boxes were made up."""
    rows = [["sampler, mean over all images", *SAMPLER.values()], ["---", "---:", "---:"]]
    for arm in results.arms:
        counts = [runs[trial.folder]["sampler"] for trial in arm.trials if trial.folder in runs]
        means = [np.mean([item[name] for item in counts if name in item] or [np.nan]) for name in SAMPLER]
        if np.isfinite(means).all():
            rows.append([arm.name, f"{100 * means[0]:.1f} %", f"{means[1]:.2f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


# ------------------------------------------------------------------------------------------------------ curves


def _curves(arm: ArmResult, runs: Runs) -> dict[str, np.ndarray]:
    """Return the probes' curves, (points, 1 + seeds): images seen, and one column per seed that is finished."""
    known = [runs[trial.folder]["points"] for trial in arm.trials if _has_points(trial, runs)]
    names = list(known[0]) if known else []
    return {name: np.array([known[0][name], *(item[name] for item in known[1:])]) for name in names}


def _has_points(trial: Trial, runs: Runs) -> bool:
    return bool(runs.get(trial.folder, {}).get("points"))


def _write_csv(file: Path, curves: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["arm", "probe", "images", "mean", "half of the 95 % interval", "seeds"])
        for arm, by_probe in curves.items():
            for name, seeds in by_probe.items():
                for images, mean, half in zip(*_interval(seeds), strict=True):
                    writer.writerow([arm, name, round(images), f"{mean:.5f}", f"{half:.5f}", len(seeds)])


def _interval(seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, means and half intervals (Student's, 95 %) of curves (seeds, points, 2)."""
    spans = [statistics.interval(list(values)) for values in seeds[:, :, 1].T]
    half = [0.0 if span.high is None else span.high - span.value for span in spans]
    return seeds[0, :, 0], np.array([span.value for span in spans]), np.array(half)


def draw(file: Path, curves: Mapping[str, Mapping[str, np.ndarray]], runs: Runs) -> None:
    """Draw one panel per online probe: mean and interval of each arm against images seen, and the baselines."""
    names = list(dict.fromkeys(name for by_probe in curves.values() for name in by_probe))
    if not names:
        return
    figure, axes = plt.subplots(1, len(names), figsize=(6.5 * len(names), 4.8), layout="constrained", squeeze=False)
    for place, name in zip(axes.flat, names, strict=True):
        for number, (arm, by_probe) in enumerate(curves.items()):
            if name in by_probe:
                images, mean, half = _interval(by_probe[name])
                colour, style = f"C{number % 10}", "-" if number < 10 else "--"
                place.plot(images / 1000, 100 * mean, style, color=colour, label=arm, lw=1.6)
                place.fill_between(images / 1000, 100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.12)
        for line, (features, value) in zip((":", "-.", "--"), _baselines(name, runs).items(), strict=False):
            place.axhline(100 * value, color="0.4", ls=line, lw=1, label=features)
        place.set(title=name.removeprefix("probe."), xlabel="thousand images", ylabel="%")
    axes.flat[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _baselines(name: str, runs: Runs) -> dict[str, float]:
    """Return the mean over all runs of each baseline of a probe."""
    rows = [item["baselines"][name] for item in runs.values() if name in item["baselines"]]
    return {features: float(np.mean([row[features] for row in rows])) for features in (rows[0] if rows else {})}


def command(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m learning.report", description=__doc__, formatter_class=layout)
    parser.add_argument("out", type=Path)
    parser.add_argument("studies", nargs="+", type=study, metavar="NAME=RESULTS")
    parser.add_argument("--root", type=Path, default=Path(), help="where the ablations were started")
    parser.add_argument("--ceiling", type=Path)
    options = parser.parse_args(arguments)
    if options.ceiling and not options.ceiling.is_file():
        parser.error(f"--ceiling {options.ceiling}: there is no such file; `python -m learning.ceiling` writes it")
    main(options.out, dict(options.studies), options.root, options.ceiling)


if __name__ == "__main__":
    command()
