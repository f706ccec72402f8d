"""Wire probes: what each measures and on which images, and what it cannot."""

from __future__ import annotations

import torch

from sslkit.api import Backbone, Probe
from sslkit.errors import Problem
from sslkit.planning.plan import ConfiguredComponent, Measurement, ProbePlan
from sslkit.planning.recipe import ProbeRecipe, ProbeTable, View
from sslkit.planning.resolver import Resolver
from sslkit.plugins import Plugins

_SOURCE = 'add [source], or source = { use = "folder", root = "photos", labels = true } to it'


def plan_probes(recipe: ProbeRecipe, plugins: Plugins) -> tuple[Measurement | None, list[Problem]]:
    """Wire probes and nothing else; return the plan (None when there are problems) and every problem."""
    chooser = Resolver(plugins)
    source = chooser.choose("source", recipe.source, ("source",)) if recipe.source else None
    backbone = chooser.choose("backbone", recipe.backbone, ("backbone",))
    made: Backbone | None = chooser.build(backbone, ("backbone",))
    probes = {}
    for name, table in recipe.probes.items():
        if not (recipe.source or table.source):
            chooser.fault(("probes", name), "it has no images: the recipe names no source", _SOURCE)
        elif item := wire_probe(chooser, name, table, source, made):
            probes[name] = item
    if backbone is None or chooser.problems:
        return None, chooser.problems
    view = next((tables[0] for tables in recipe.augment.values() if tables), View())
    return Measurement(recipe.seed, backbone, probes, view), []


def wire_probe(
    chooser: Resolver, name: str, table: ProbeTable, source: ConfiguredComponent | None, backbone: Backbone | None
) -> ProbePlan | None:
    """Wire one probe; `source` is the recipe's own."""
    key = ("probes", name)
    made = chooser.choose("probe", table, key)
    of = chooser.choose("source", table.source, (*key, "source")) if table.source else source
    tested = chooser.choose("source", table.test_source, (*key, "test_source")) if table.test_source else None
    probe: Probe | None = chooser.build(made, key)
    _check_labels(chooser, key, table, probe)
    _check_crops(chooser, key, table)
    if of and tested and (of.component.id, of.options) == (tested.component.id, tested.options):
        what = "test_source is the very source that is trained on: each test image would be its own neighbour"
        chooser.fault((*key, "test_source"), what, "name another split, or write test_share in its place")
    _rehearse(chooser, key, table, backbone)
    return ProbePlan(made, of, tested, table) if made and of else None


def _check_labels(chooser: Resolver, key: tuple[str, ...], table: ProbeTable, probe: Probe | None) -> None:
    if probe is None or table.labels in probe.takes:
        return
    instead = 'crops = "multi-label"' if table.labels == "single-label" else 'crops = "objects" or crops = "images"'
    chooser.fault(
        (*key, "crops"),
        f'crops = "{table.crops}" gives {table.labels} samples, and probe "{probe.name}" takes only '
        f"{' and '.join(probe.takes)} ones",
        f"write {instead}, or use another probe",
    )


def _check_crops(chooser: Resolver, key: tuple[str, ...], table: ProbeTable) -> None:
    if table.crops == "objects" and table.fit != "stretch":
        what = f'fit = "{table.fit}" is for whole images, and crops = "objects" cuts objects'
        chooser.fault((*key, "fit"), what, 'leave it out, or write crops = "images" or "multi-label"')


def _rehearse(chooser: Resolver, key: tuple[str, ...], table: ProbeTable, backbone: Backbone | None) -> None:
    """Push crops through the backbone, as shapes: a size that it cannot take shows here."""
    if backbone is None:
        return
    try:
        backbone.eval()(torch.zeros(2, 3, table.size, table.size, device="meta"))
    except Exception as error:  # whatever a backbone says about a size
        what = f"backbone '{backbone.name}' cannot take crops of {table.size} x {table.size} pixels: {error}"
        chooser.fault((*key, "size"), what)
