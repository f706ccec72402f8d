"""Plan the views: which augmentation a network sees of each view group, and whether the backbone takes their size."""

from __future__ import annotations

from sslkit.api import Backbone
from sslkit.planning.backbone_sizes import rows_of_size
from sslkit.planning.plan import NETWORKS, Plan
from sslkit.planning.recipe import View
from sslkit.planning.resolver import Resolver


def plan_views(resolver: Resolver, plan: Plan) -> None:
    """Fill `plan.views` from the recipe's `[[augment.GROUP]]` tables."""
    for group, count in plan.groups.items():
        if not plan.is_seen(group):
            continue
        tables = plan.recipe.augment.get(group)
        if not tables and resolver.is_faulty("augment", group):
            continue
        if not tables:
            resolver.fault(
                ("augment",),
                f"[[augment.{group}]] is missing, and an objective reads the views of group '{group}'",
                f"add [[augment.{group}]] once for all its {count} views, or {count} times",
            )
            continue
        for network in NETWORKS:
            if plan.has(network):
                _add_views(resolver, plan, group, network, tables)
        same = plan.views.get((group, "target")) == plan.views.get((group, "online"))
        if same and not any(table.network != "both" for table in tables):
            plan.views.pop((group, "target"), None)


def _add_views(resolver: Resolver, plan: Plan, group: str, network: str, tables: list[View]) -> None:
    """Assign a table to each view of a group that a network reads."""
    if not any(row.network == network and row.group == group for row in plan.rows):
        return
    count = plan.groups[group]
    matching = [table for table in tables if table.network in ("both", network)]
    if len(matching) not in (1, count) and (resolver.is_faulty("sampler") or resolver.is_faulty("augment", group)):
        return
    if len(matching) not in (1, count):
        seeing = "" if len(matching) == len(tables) else f" for the {network} network"
        what = f"group '{group}' has {count} views, but {len(matching)} [[augment.{group}]]{seeing}"
        if not any(problem.what == what for problem in resolver.problems):
            resolver.fault(("augment", group), what, f"write one for all of them, or {count}")
        return
    plan.views[group, network] = matching * (count // len(matching))


def check_sizes(resolver: Resolver, plan: Plan, backbone: Backbone | None) -> None:
    """Check that the views of a group have one size, and that the backbone takes each size."""
    for (group, _), views in plan.views.items():
        if len({view.size for view in views}) > 1:
            sizes = ", ".join(str(view.size) for view in views)
            what = f"the views of group '{group}' differ in size ({sizes})"
            resolver.fault(("augment", group), what, "write one size; views of another size are another group")
    if backbone is None:
        return
    for group, size in sorted({(group, views[0].size) for (group, _), views in plan.views.items()}):
        _check_size(resolver, plan, group, size, backbone)


def _check_size(resolver: Resolver, plan: Plan, group: str, size: int, backbone: Backbone) -> None:
    """Check that the backbone takes views of a size: those too small or not divisible fail on the meta device."""
    use = plan.recipe.backbone.use
    rows = rows_of_size(resolver, ("augment", group), plan.backbone.component, backbone.train(), size, "views")
    if rows is not None and "map" in backbone.gives and rows["map"].shape[-2:] == (1, 1):
        plan.single_cell[group] = size
        plan.notes.append(
            f"backbone '{use}' reduces views of {size} x {size} pixels (group '{group}') to a map of 1 x 1, from which "
            "little may be learned: use larger views, or a backbone with fewer strides"
        )
