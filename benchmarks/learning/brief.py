"""Print a study's results without its costs and without balanced rates, narrow enough for a page.

python benchmarks/learning/brief.py benchmarks/learning/scenes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sslkit.ablation import statistics
from sslkit.ablation.results import Results, load

NAMES = {
    "full": "UniVIP",
    "drop-instance-instance": "without instance-instance",
    "drop-scene-instance": "without scene-instance",
    "drop-scene-instance+instance-instance": "scene-scene alone",
    "byol": "BYOL on its own sampler",
}


def table(results: Results) -> str:
    """Return Markdown: mean and standard deviation, and below them the paired difference to full with its interval."""
    shown = [name for name in results.metrics if name.endswith((" top1", " map"))]
    rows = [["%", *shown], ["---", *["---:"] * len(shown)]]
    for arm in results.arms:
        reads = [statistics.metric_reader(name) for name in shown]
        rows.append([NAMES[arm.name], *(_cell(results, arm, read, read) for read in reads)])
    for features in statistics.reference_names(results):
        pairs = [(statistics.reference_reader(features, name), statistics.metric_reader(name)) for name in shown]
        rows.append([features, *(_cell(results, results.full, *pair) for pair in pairs)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _cell(results: Results, arm, read, of_full) -> str:  # type: ignore[no-untyped-def]
    mean = statistics.mean(arm, read)
    words = f"{100 * mean.value:.1f} ± {100 * mean.std:.1f}"
    if arm is results.full and read is of_full:
        return words
    versus = statistics.difference(arm, read, results.full, of_full)
    bold = "**" if versus.excludes_zero else ""
    return f"{words}<br>{bold}{100 * versus.value:+.1f} [{100 * versus.low:+.1f}, {100 * versus.high:+.1f}]{bold}"


if __name__ == "__main__":
    print(table(load(json.loads((Path(sys.argv[1]) / "results.json").read_text()))), end="")
