"""The page of a rehearsal: Markdown that GitHub shows, and its curves as SVG files beside it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu import svg

PAGE = "page.md"
COLUMNS = 118
MOST_ROWS = 24
"""Rows of a table on the page; the JSON file has all."""

Content = Mapping[str, Any]


def write(content: Content, folder: Path) -> None:
    """Write the page and its figures; content is that of the JSON file."""
    for name, part in content["parts"].items():
        for curve in part.get("curves", ()):
            if any(curve["lines"].values()):
                (folder / figure(name, curve["title"])).write_text(svg.draw(**curve))
    (folder / PAGE).write_text("\n".join(page(content)).rstrip() + "\n")


def figure(part: str, title: str) -> str:
    """Return the file name of a figure."""
    return re.sub(r"[^a-z0-9]+", "-", f"{part} {title}".lower()).strip("-") + ".svg"


def page(content: Content) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from ("# GPU rehearsal", "")
    yield from wrapped(summary(content))
    yield from ("", *conditions(content["conditions"]), "", *overview(content["parts"]))
    for name, part in content["parts"].items():
        if any(part.get(kind) for kind in ("error", "checks", "tables", "notes", "curves")):
            yield from ("", *section(name, part))


def summary(content: Content) -> str:
    """Say in words how it ended."""
    states = [part["status"] for part in content["parts"].values()]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    where = content["conditions"].get("card") or "the CPU: figures of speed and memory mean nothing there"
    state = {"finished": "", "running": "It is still running. ", "interrupted": "It was interrupted. "}
    return (
        f"{state[content['state']]}Of {len(states)} parts, {', '.join(counts) or 'none has run'}. It took "
        f"{content['seconds']:.0f} s of {60 * content['minutes']:.0f} s, on {where}."
    )


def conditions(found: Content) -> Iterator[str]:
    """Yield the conditions as a list."""
    smi = ", ".join(f"{name} {value}" for name, value in found.get("nvidia_smi", {}).items())
    shown = {"card": found.get("card") or "none", "nvidia-smi": smi}
    shown |= {name: found[name] for name in ("machine", "system", "torch_build", "versions") if name in found}
    shown |= {name: found.get(name, "unknown") for name in ("commit", "date", "command")}
    for name, value in shown.items():
        if value:
            yield from wrapped(f"- {name.replace('_', ' ')}: {value}", "  ")


def overview(parts: Mapping[str, Content]) -> Iterator[str]:
    """Yield the table of all parts."""
    rows = [
        {
            "part": name, "result": part["status"] if part["status"] == "passed" else f"**{part['status']}**",
            "seconds": f"{part['seconds']:.0f}", "at most": f"{part['bound_s']:.0f}", "what": part["what"],
        }
        for name, part in parts.items()
    ]  # fmt: skip
    yield from table(rows)


def section(name: str, part: Content) -> Iterator[str]:
    """Yield what a part found."""
    yield from (f"## {name}: {part['status']}", "")
    yield from wrapped(f"{part['what'][0].upper()}{part['what'][1:]}.")
    if part.get("error"):
        yield from ("", "```text", *part["error"].replace("```", "'''").splitlines(), "```")
    if part.get("checks"):
        rows = [
            {"claim": check["what"], "value": check["value"], "to be": check["limit"],
             "result": "holds" if check["ok"] else "**does not hold**"}
            for check in part["checks"]
        ]  # fmt: skip
        yield from ("", *table(rows))
    for item in filter(lambda item: item["rows"], part.get("tables", ())):
        yield from ("", *wrapped(f"{item['title'][0].upper()}{item['title'][1:]}:"), "", *table(item["rows"]))
    for curve in part.get("curves", ()):
        if any(curve["lines"].values()):
            yield from ("", f"![{curve['title']}]({figure(name, curve['title'])})")
    for note in part.get("notes", ()):
        yield from ("", *wrapped(note))


def table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield a Markdown table; of a long one, its beginning and its end."""
    if not rows:
        return
    columns = list(rows[0])
    yield f"| {' | '.join(map(cell, columns))} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    half = MOST_ROWS // 2
    shown = [*rows] if len(rows) <= MOST_ROWS else [*rows[:half], dict.fromkeys(columns, "..."), *rows[-half:]]
    for row in shown:
        yield f"| {' | '.join(cell(row[name]) for name in columns)} |"


def cell(text: str) -> str:
    """Return text that is safe in a table."""
    return " ".join(str(text).replace("|", "\\|").split())


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return the lines of a paragraph."""
    plain = " ".join(text.split())
    return textwrap.wrap(plain, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
