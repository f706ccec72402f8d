"""Wire heads: check a projector and a predictor against the backbone and against each other."""

from __future__ import annotations

from sslkit.api import Backbone, Head
from sslkit.planning.plan import ConfiguredComponent, HeadPlan
from sslkit.planning.recipe import HeadTable
from sslkit.planning.resolver import Resolver


def wire_head(resolver: Resolver, name: str, table: HeadTable, backbone: Backbone | None) -> HeadPlan | None:
    """Choose and build the projector and predictor of `[heads.NAME]`; None, with problems, if they do not fit."""
    key = ("heads", name)
    projector = resolver.choose("head", table.projector, (*key, "projector"))
    predictor = resolver.choose("head", table.predictor, (*key, "predictor")) if table.predictor else None
    if backbone is None or projector is None or not _reads(resolver, projector, backbone, (*key, "projector")):
        return None
    built: Head | None = resolver.build(projector, (*key, "projector"), {"d": backbone.dim})
    if built is None:
        return None
    built_predictor: Head | None = resolver.build(predictor, (*key, "predictor"), {"d": built.out_dim})
    if predictor and not _fits(resolver, projector, predictor, (*key, "predictor")):
        return None
    if table.predictor and built_predictor is None:
        return None
    out_dim = built_predictor.out_dim if built_predictor else built.out_dim
    return HeadPlan(projector, predictor, backbone.dim, built.out_dim, out_dim)


def _reads(resolver: Resolver, projector: ConfiguredComponent, backbone: Backbone, key: tuple[str, ...]) -> bool:
    """Return whether the backbone gives the row that the projector reads; if not, add a problem."""
    takes = projector.component.cls.takes
    if takes in backbone.gives:
        return True
    what = f"{projector.component.id} projects '{takes}', which backbone {backbone.name} does not give"
    resolver.fault(key, what, f"it gives: {', '.join(backbone.gives)}")
    return False


def _fits(
    resolver: Resolver, projector: ConfiguredComponent, predictor: ConfiguredComponent, key: tuple[str, ...]
) -> bool:
    """Return whether a predictor takes what the projector gives; not one of vectors after maps, and vice versa."""
    takes, gives = predictor.component.cls.gives, projector.component.cls.gives
    if takes != gives:
        what = f"{predictor.component.id} works on '{takes}', but {projector.component.id} gives '{gives}'"
        also = [(*key[:-1], "projector", "use")]
        resolver.fault((*key, "use"), what, "choose a predictor that takes what the projector gives", also=also)
    return bool(takes == gives)
