"""Build HTML and SVG so that text can never become markup by accident."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is already markup and is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: object) -> Markup:
    """Return an element with its children; plain text is escaped.

    Args:
        name: Name of the element; elements without an end tag, such as `meta`, take no children.
        children: Text and elements; None is left out.
        attributes: Attributes; None leaves one out, and True writes it without a value. `class_` becomes `class`, and
            `aria_label` becomes `aria-label`.
    """
    attribute_text = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    start = f"<{name}{attribute_text}>"
    return Markup(start if name in _VOID else f"{start}{join(*children)}</{name}>")


_VOID = {"meta", "link", "input"}


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def join(*children: str | None) -> Markup:
    """Join text and elements."""
    return Markup("".join(item if isinstance(item, Markup) else escape(item) for item in children if item is not None))
