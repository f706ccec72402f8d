"""HTML and SVG, written so that text can never become markup by accident."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: object) -> Markup:
    """Return an element with its children in it; plain text is escaped.

    Args:
        name: Of the element; one without an end tag, such as `meta`, takes no children.
        children: Text and elements; None is left out.
        attributes: Where the value is None they are left out, where it is True they have none; `class_` is written as
            `class`, and `aria_label` as `aria-label`.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    start = f"<{name}{written}>"
    return Markup(start if name in _VOID else f"{start}{join(*children)}</{name}>")


_VOID = {"meta", "link", "input"}


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def join(*children: str | None) -> Markup:
    """Put text and elements one behind the other."""
    return Markup("".join(item if isinstance(item, Markup) else escape(item) for item in children if item is not None))
