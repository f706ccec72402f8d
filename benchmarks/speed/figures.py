"""Write the measurements as a page with ratios first, as JSON and as a figure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from speed.timing import Row, machine, ratio, table


class Claim(NamedTuple):
    """A figure with a target.

    Attributes:
        part: Part of the benchmark.
        slow: Variant whose time is divided by that of `fast`, or from which it is subtracted, by `unit`.
        what: Text in the name of the rows, where a part has several kinds.
        unit: "x" for the ratio, else the unit of the difference, or of `slow` alone where `fast` is empty.
        most: Whether less is better.
    """

    name: str
    part: str
    slow: str
    fast: str
    least: float
    aim: float
    what: str = ""
    unit: str = "x"
    most: bool = False

    def value(self, rows: Sequence[Row]) -> float | None:
        """Return the figure, None where it was not measured."""
        kind = [row for row in rows if self.what in row["what"]]
        medians = {row["variant"]: row["median_s"] for row in kind}
        if self.slow not in medians or (self.fast and self.fast not in medians):
            return None
        if self.unit == "x":
            return ratio(kind, self.slow, self.fast)
        scale = {"s": 1.0, "us": 1e6}[self.unit]
        return float(scale * (medians[self.slow] - medians.get(self.fast, 0.0)))


LIGHTLY, DOCUMENTED = "lightly's transforms", "lightly, documented"
CLAIMS = (
    Claim("views from JPEG on one core, float out", "views", LIGHTLY, "sslkit, float", 2.5, 3.1),
    Claim("the same, bytes out", "views", LIGHTLY, "sslkit, uint8", 3.5, 4),
    Claim("the same, colour on the device", "views", LIGHTLY, "sslkit, colour on the device", 5, 6),
    Claim("through the loader, 2 workers, float out", "loader", "lightly's loader", "sslkit, float", 2.25, 2.8),
    Claim("the same, bytes out", "loader", "lightly's loader", "sslkit, uint8", 3.15, 3.6),
    Claim("the same, colour on the device", "loader", "lightly's loader", "sslkit, colour on the device", 4.5, 5.4),
    Claim("BYOL step, equal settings, ResNet-18, 96 px", "step", "lightly, channels last", "sslkit, float32", 0.98, 1.05, "resnet18"),
    Claim("BYOL step, equal settings, ResNet-50, 224 px", "step", "lightly, channels last", "sslkit, float32", 0.98, 1.05, "resnet50"),
    Claim("BYOL step, default against default, ResNet-18", "step", DOCUMENTED, "sslkit, default", 1.9, 2.3, "resnet18"),
    Claim("BYOL step, default against default, ResNet-50", "step", DOCUMENTED, "sslkit, default", 2.5, 3, "resnet50"),
    Claim("BYOL step, default against default, small network, 32 px, 64 images", "small", DOCUMENTED, "sslkit, default", 1.5, 1.8, "small-resnet"),
    Claim("BYOL step, default against default, ResNet-18, 32 px, 8 images", "small", DOCUMENTED, "sslkit, default", 1, 1.05, "resnet18"),
    Claim("photos to weights, BYOL, default against default", "end-to-end", DOCUMENTED, "sslkit, default", 2, 2.5),
    Claim("UniVIP step over BYOL step", "univip", "UniVIP", "BYOL", 1.42, 1.38, most=True),
    Claim("transport: loop over POT", "transport", "loop over ot.sinkhorn, tensors", "ours, kernel domain", 100, 600),
    Claim("transport: POT batched, kernel domain", "transport", "POT's batched solver, kernel domain", "ours, kernel domain", 1, 2.5),
    Claim("transport: POT batched, log domain", "transport", "POT's batched solver, log domain", "ours, log domain", 1, 2.5),
    Claim("sslkit --help", "help", "sslkit --help", "", 0.3, 0.2, unit="s", most=True),
    Claim("our loop over a bare one, a step", "loop", "sslkit, whole loop", "bare loop", 60, 30, unit="us", most=True),
)  # fmt: skip


def read(file: Path) -> list[Row]:
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def write(rows: Sequence[Row], file: Path) -> None:
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def written(found: Mapping[str, Sequence[Row]], out: Path, size: str) -> str:
    """Write speed.md, speed.json and speed.png; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    conditions = {"size": size, **machine()}
    report = {"conditions": conditions, "rows": found}
    (out / "speed.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    claims = list(measured(found))
    page = "\n".join(["# Speed, measured", "", *_conditions(conditions), "", *_claims(claims), "", *_tables(found)])
    (out / "speed.md").write_text(page, encoding="utf-8")
    draw(claims, out / "speed.png")
    return page


def measured(found: Mapping[str, Sequence[Row]]) -> Iterator[tuple[Claim, float]]:
    """Yield the claims that were measured."""
    for claim in CLAIMS:
        value = claim.value(found.get(claim.part, ()))
        if value is not None:
            yield claim, value


def _conditions(conditions: Mapping[str, str]) -> list[str]:
    return [f"- {name}: {value}" for name, value in conditions.items()]


def _claims(claims: Sequence[tuple[Claim, float]]) -> list[str]:
    lines = ["| what | measured | to reach | aim |", "| --- | ---: | ---: | ---: |"]
    for claim, value in claims:
        unit = claim.unit if claim.unit == "x" else f" {claim.unit}"
        bound = "at most " if claim.most else ""
        lines.append(f"| {claim.name} | **{value:.3g}{unit}** | {bound}{claim.least:g}{unit} | {claim.aim:g}{unit} |")
    return lines


def _tables(found: Mapping[str, Sequence[Row]]) -> list[str]:
    lines = []
    for rows in found.values():
        for what in dict.fromkeys(row["what"] for row in rows):
            lines += [f"## {what[0].upper()}{what[1:]}", "", table([row for row in rows if row["what"] == what]), ""]
    return lines


def draw(claims: Sequence[tuple[Claim, float]], file: Path) -> None:
    """Draw each figure as a fraction of its target: 1 is enough, and the tick is the aim."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shares = [(claim.least / value if claim.most else value / claim.least) for claim, value in claims]
    aims = [(claim.least / claim.aim if claim.most else claim.aim / claim.least) for claim, _ in claims]
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(claims) + 1.2), layout="constrained")
    places = range(len(claims), 0, -1)
    axes.barh(places, shares, color=["#4477aa" if share >= 1 else "#cc6677" for share in shares], height=0.6)
    axes.scatter(aims, places, marker="|", s=160, color="black", label="aim", zorder=3)
    axes.axvline(1, color="black", linewidth=1, linestyle="--", label="to reach")
    for place, share, aim, (claim, value) in zip(places, shares, aims, claims, strict=True):
        unit = "x" if claim.unit == "x" else f" {claim.unit}"
        at = (max(share, aim) if aim < 1.5 * share else share, place)
        axes.annotate(f"{value:.3g}{unit}", at, (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(list(places), [claim.name for claim, _ in claims], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("measured, as a multiple of what is to be reached (more is better in all rows)")
    axes.margins(x=0.12)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
