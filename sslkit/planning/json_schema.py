"""Build the JSON schema of recipes, for editors: the core's tables and the options of all installed components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from sslkit.errors import PluginError
from sslkit.foreign.signatures import schema
from sslkit.planning.recipe import (  # fmt: skip
    Choice,
    ObjectiveTable,
    OptimizerTable,
    ProbeTable,
    ProposalsTable,
    Recipe,
)
from sslkit.plugins import Component, Plugins

_SINGLE: Mapping[str, tuple[str, type[Choice]]] = {
    "source": ("source", Choice),
    "proposals": ("proposer", ProposalsTable),
    "sampler": ("sampler", Choice),
    "backbone": ("backbone", Choice),
}
_NAMED: Mapping[str, tuple[str, type[Choice]]] = {
    "objectives": ("objective", ObjectiveTable),
    "probes": ("probe", ProbeTable),
}


def recipe_schema(plugins: Plugins) -> dict[str, Any]:
    """Return the schema; tables that name a component have one alternative per component."""
    base = Recipe.model_json_schema()
    base["$schema"], base["title"] = "https://json-schema.org/draft/2020-12/schema", "sslkit recipe"
    definitions, properties = base["$defs"], base["properties"]
    for key, (kind, table) in _SINGLE.items():
        properties[key] = {"anyOf": _alternatives(plugins, kind, table, definitions)}
    for key, (kind, table) in _NAMED.items():
        fewest = {"minProperties": 1} if key in base["required"] else {}
        properties[key] = _by_name(plugins, kind, table, definitions) | fewest
    properties["optimizer"] = {"anyOf": _optimizers(definitions)}
    heads = _alternatives(plugins, "head", Choice, definitions)
    definitions["HeadTable"]["properties"] |= {"projector": {"anyOf": heads}, "predictor": {"anyOf": heads}}
    return base


def _alternatives(
    plugins: Plugins, kind: str, table: type[Choice], definitions: dict[str, Any]
) -> list[dict[str, Any]]:
    return [_alternative(plugins, item, table, definitions) for item in plugins.components[kind].values()]


def _alternative(plugins: Plugins, item: Component, table: type[Choice], definitions: dict[str, Any]) -> dict[str, Any]:
    body = _merged(item.cls, table, [item.id, *_short_names(plugins, item)], definitions)
    return {"title": item.id, "description": item.summary, **body}


def _short_names(plugins: Plugins, item: Component) -> list[str]:
    """Return the component's short name in a list; an empty one where that stands for another, or is ambiguous."""
    short = item.id.partition("/")[2]
    with suppress(PluginError):
        return [short] if plugins.find(item.kind, short) is item else []
    return []


def _merged(maker: Any, table: type[Choice], names: Iterable[str], definitions: dict[str, Any]) -> dict[str, Any]:
    """Merge the keys that the core reads with the component's options."""
    core, options = table.model_json_schema(), schema(maker).model_json_schema()
    definitions |= core.pop("$defs", {}) | options.pop("$defs", {})
    properties = core["properties"] | options.get("properties", {})
    properties["use"] = {"enum": list(names)}
    required = sorted({*core.get("required", []), *options.get("required", [])})
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _by_name(plugins: Plugins, kind: str, table: type[Choice], definitions: dict[str, Any]) -> dict[str, Any]:
    """Describe tables whose name is the default of `use`."""
    items = plugins.components[kind]
    bodies = {id_: _alternative(plugins, item, table, definitions) for id_, item in items.items()}
    definitions[f"any-{kind}"] = {"anyOf": list(bodies.values())}
    shorts = {short: bodies[id_] for id_, item in items.items() for short in _short_names(plugins, item)}
    chosen = {"required": ["use"], "$ref": f"#/$defs/any-{kind}"}
    named = {name: {"if": {"required": ["use"]}, "then": chosen, "else": body} for name, body in shorts.items()}
    return {"type": "object", "properties": named, "additionalProperties": chosen}


def _optimizers(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    from sslkit.optim import OPTIMIZERS

    return [
        {"title": name, **_merged(maker, OptimizerTable, [name], definitions)} for name, maker in OPTIMIZERS.items()
    ]
