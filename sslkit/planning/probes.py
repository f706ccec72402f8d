"""Wire probes: check what each of them measures, and on which images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sslkit.api import Backbone, Probe
from sslkit.errors import Problem
from sslkit.planning.backbone_sizes import rows_of_size
from sslkit.planning.plan import ConfiguredComponent, ProbePlan, ProbingPlan
from sslkit.planning.recipe import ProbeRecipe, ProbeTable, View
from sslkit.planning.resolver import Resolver
from sslkit.plugins import Component, Plugins


def plan_probes(recipe: ProbeRecipe, plugins: Plugins) -> tuple[ProbingPlan | None, list[Problem]]:
    """Wire the probes alone; return the plan (None when there are problems) and every problem."""
    resolver = Resolver(plugins)
    source = resolver.choose("source", recipe.source, ("source",)) if recipe.source else None
    backbone = resolver.choose("backbone", recipe.backbone, ("backbone",))
    built: Backbone | None = resolver.build(backbone, ("backbone",))
    probes = {}
    for name, table in recipe.probes.items():
        if not (recipe.source or table.source):
            instead = f"add [source], or source = {resolver.example('source')} to it"
            resolver.fault(("probes", name), "it has no images: the recipe names no source", instead)
        elif probe := wire_probe(resolver, name, table, source, backbone, built):
            probes[name] = probe
    if backbone is None or resolver.problems:
        return None, resolver.problems
    view = next((tables[0] for tables in recipe.augment.values() if tables), View())
    return ProbingPlan(recipe.seed, backbone, probes, view), []


def wire_probe(
    resolver: Resolver, name: str, table: ProbeTable, source: ConfiguredComponent | None,
    backbone: ConfiguredComponent | None, built_backbone: Backbone | None,
) -> ProbePlan | None:  # fmt: skip
    """Wire one probe; `source` is the recipe's, for a probe that names none."""
    key = ("probes", name)
    probe = resolver.choose("probe", table, key)
    train_source = resolver.choose("source", table.source, (*key, "source")) if table.source else source
    test_source = resolver.choose("source", table.test_source, (*key, "test_source")) if table.test_source else None
    built: Probe | None = resolver.build(probe, key)
    _check_labels(resolver, key, table, built)
    _check_crops(resolver, key, table)
    _check_loosen(resolver, key, table)
    if train_source and test_source and _same(train_source, test_source):
        what = "test_source is the training source itself: each test image would be its own neighbour"
        instead = "name another split, or write test_share instead"
        also = [(*key, "source"), *([] if table.source else [("source",)])]
        resolver.fault((*key, "test_source"), what, instead, also=also)
    _check_share(resolver, key, table)
    if backbone and built_backbone:
        _check_size(resolver, key, table, backbone.component, built_backbone)
    return ProbePlan(probe, train_source, test_source, table) if probe and train_source else None


def _same(a: ConfiguredComponent, b: ConfiguredComponent) -> bool:
    return (a.component.id, a.options) == (b.component.id, b.options)


def _check_labels(resolver: Resolver, key: tuple[str, ...], table: ProbeTable, probe: Probe | None) -> None:
    """Refuse crops whose labels the probe does not take."""
    if probe is None or table.labels in probe.takes:
        return
    instead = 'crops = "multi-label"' if table.labels == "single-label" else 'crops = "objects" or crops = "images"'
    resolver.fault(
        (*key, "crops"),
        f'crops = "{table.crops}" gives {table.labels} samples, and probe "{probe.name}" takes only '
        f"{' and '.join(probe.takes)} ones",
        f"write {instead}, or use another probe",
        also=[(*key, "use")],
    )


def _check_crops(resolver: Resolver, key: tuple[str, ...], table: ProbeTable) -> None:
    """Refuse a `fit` for crops of objects, which are always stretched."""
    if table.crops == "objects" and table.fit != "stretch":
        what = f'fit = "{table.fit}" is for whole images, and crops = "objects" crops objects'
        instead = 'leave it out, or write crops = "images" or "multi-label"'
        resolver.fault((*key, "fit"), what, instead, also=[(*key, "crops")])


def _check_share(resolver: Resolver, key: tuple[str, ...], table: ProbeTable) -> None:
    """Refuse a share of the source's images to test on, beside other images to test on."""
    default = ProbeTable.model_fields["test_share"].default  # which resolved recipes have in any case
    if table.test_source and table.test_share != default:
        what = f"test_share = {table.test_share:g} is not read: the images to test on are those of test_source"
        resolver.fault((*key, "test_share"), what, "leave one of them out", also=[(*key, "test_source")])


def _check_loosen(resolver: Resolver, key: tuple[str, ...], table: ProbeTable) -> None:
    """Refuse to loosen the boxes of whole images, which have none."""
    if table.loosen and table.crops != "objects":
        what = f'loosen shifts and scales the boxes of objects, and crops = "{table.crops}" takes whole images'
        resolver.fault((*key, "loosen"), what, 'leave it out, or write crops = "objects"', also=[(*key, "crops")])


def _check_size(
    resolver: Resolver, key: tuple[str, ...], table: ProbeTable, component: Component, backbone: Backbone
) -> None:
    """Check that the backbone takes crops of the table's size, and that its map has enough cells for the pool."""
    rows = rows_of_size(resolver, (*key, "size"), component, backbone.eval(), table.size, "crops")
    if rows is not None:
        _check_pool(resolver, key, table, backbone, rows)


def _check_pool(
    resolver: Resolver, key: tuple[str, ...], table: ProbeTable, backbone: Backbone, rows: Mapping[str, Tensor]
) -> None:
    """Refuse a grid for a backbone without a map, or with one of fewer cells."""
    if table.pool == "mean":
        return
    if "map" not in rows:
        what = f"pool = \"{table.pool}\" divides the map, and backbone '{backbone.name}' gives only {', '.join(rows)}"
        resolver.fault((*key, "pool"), what, "leave it out, or use a backbone with a map")
        return
    height, width = rows["map"].shape[-2:]
    cells = int(table.pool.removeprefix("grid-"))
    if min(height, width) < cells:
        what = (
            f'pool = "{table.pool}" divides the map into {cells} x {cells} cells, and the map of backbone '
            f"'{backbone.name}' has {height} x {width} positions for crops of {table.size} x {table.size} pixels"
        )
        resolver.fault((*key, "pool"), what, "write a larger size, or a pool that fits", also=[(*key, "size")])
