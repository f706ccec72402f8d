"""Show plugins, their components and the options of a component."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sslkit.cli.show.tables import make_table, print_parts
from sslkit.errors import PluginError, closest
from sslkit.foreign.signatures import schema
from sslkit.plugins import Component, Plugins, why_broken


def describe_plugins(plugins: Plugins) -> dict[str, Any]:
    """Describe the loaded plugins with their components, and the broken plugins."""
    components = _components(plugins)
    loaded = {
        name: {
            "distribution": owner.distribution,
            "version": owner.version,
            "components": [
                {"kind": item.kind, "id": item.id, "summary": item.summary}
                for item in components
                if item.owner == owner
            ],
        }
        for name, owner in plugins.owners.items()
    }
    broken = [
        {
            "plugin": item.owner.plugin,
            "distribution": item.owner.distribution,
            "version": item.owner.version,
            "reason": item.reason,
        }
        for item in plugins.broken
    ]
    return {"plugins": loaded, "broken": broken}


def _components(plugins: Plugins) -> list[Component]:
    return [item for kind in plugins.components.values() for item in kind.values()]


def print_plugins(listed: Mapping[str, Any]) -> None:
    """Print one row per component, then the broken plugins."""
    table = make_table("", "plugin", "kind", "id", "summary", left=4)
    for name, plugin in listed["plugins"].items():
        rows = plugin["components"] or [{"kind": "-", "id": "-", "summary": "hooks only"}]
        for number, row in enumerate(rows):
            first = f"{name} ({plugin['distribution']} {plugin['version']})" if number == 0 else ""
            table.add_row(first, row["kind"], row["id"], row["summary"])
        table.add_section()
    broken = [
        f"broken: {item['plugin']} ({item['distribution']} {item['version']}): {item['reason']}"
        for item in listed["broken"]
    ]
    print_parts(table, *broken)


def describe_components(plugins: Plugins, name: str) -> list[dict[str, Any]]:
    """Describe every component with this id or short name, and its options.

    Raises:
        PluginError: No component has this name, or it is broken.
    """
    components = _components(plugins)
    matches = [item for item in components if name in (item.id, item.id.partition("/")[2])]
    if not matches and (reason := why_broken(plugins, name)):
        raise PluginError(reason)
    if not matches:
        hint = closest(name, [item.id.partition("/")[2] for item in components])
        raise PluginError(f"no component is named '{name}'{hint}; `sslkit plugins` lists them")
    return [_describe(item) for item in matches]


def _describe(component: Component) -> dict[str, Any]:
    properties = schema(component.cls).model_json_schema().get("properties", {})
    return {
        "id": component.id,
        "kind": component.kind,
        "documentation": inspect.cleandoc(component.cls.__doc__ or ""),
        "options": [
            {"option": key, "default": value.get("default"), "type": _type(value)} for key, value in properties.items()
        ],
        "requires": dict(getattr(component.cls, "requires", {})),
        "distribution": component.owner.distribution,
        "version": component.owner.version,
    }


def _type(value: Mapping[str, Any]) -> str:
    """Write a JSON schema type in a few words."""
    if "anyOf" in value:
        return " or ".join(_type(item) for item in value["anyOf"])
    if "enum" in value:
        return " | ".join(json.dumps(item) for item in value["enum"])
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[name]:g}" for name, sign in signs.items() if name in value]
    return " ".join([str(value.get("const", value.get("type", "any"))), *limits])


def print_components(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print the documentation and the options of components."""
    for item in listed:
        table = make_table("", "option", "default", "type")
        for row in item["options"]:
            table.add_row(row["option"], json.dumps(row["default"]), row["type"])
        head = f"{item['kind']} {item['id']} ({item['distribution']} {item['version']})"
        print_parts(head, "", item["documentation"], *([table] if item["options"] else ["no options"]))
