"""Draw the data flow of a step: `python docs/drawings/data_flow.py` writes docs/figures/data_flow.svg."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OUT = Path(__file__).parent.parent / "figures" / "data_flow.svg"
WIDTH, HEIGHT = 1040, 432
TITLE = "The data flow of one step of UniVIP"
TEXT = (
    "A source gives images, a sampler gives boxes in view groups, and the core makes views of them. The online and the "
    "target network fill a table of embeddings. Objectives read its rows. The weighted sum of their terms is the loss "
    "of the step, whose gradients go to the online network; the target network follows as a moving average."
)

ROWS = (
    "online.prediction.scene",
    "online.prediction.instance",
    "target.projection.scene",
    "target.projection.instance",
)
READS = {
    "scene-scene": (0, 2),
    "scene-instance": (1, 2),
    "instance-instance": (0, 1, 2, 3),
}
"""The rows that each of UniVIP's objectives requires, as indices into `ROWS`."""

# Text on a fill is legible by itself, and text on the page is a grey for white and for black. So the drawing is legible
# even where a viewer takes the wrong one of the two palettes.
LIGHT = {
    "data": ("#dafbe1", "#1a7f37", "#0b3d1a"),
    "online": ("#ddf4ff", "#0969da", "#0a3069"),
    "target": ("#fbefff", "#8250df", "#3e1f79"),
    "table": ("#f6f8fa", "#818b98", "#1f2328"),
    "loss": ("#fff8c5", "#9a6700", "#4d2d00"),
    "step": ("#ffebe9", "#cf222e", "#6b0f16"),
}
DARK = {
    "data": ("#0f2a1a", "#3fb950", "#b4f1b4"),
    "online": ("#0d2440", "#4493f8", "#cae8ff"),
    "target": ("#271a42", "#ab7df8", "#eddeff"),
    "table": ("#1b2129", "#818b98", "#e6edf3"),
    "loss": ("#2f2408", "#d29922", "#f8e3a1"),
    "step": ("#3a1417", "#f85149", "#ffd7d5"),
}
PAGE = "#768390"
SANS = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def draw() -> str:
    """Return the drawing as the text of an SVG file."""
    body = [*_data(), *_networks(), *_table(), *_objectives(), *_step()]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 18 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title text">'
    )
    names = [f'<title id="title">{TITLE}</title>', f'<desc id="text">{TEXT}</desc>']
    return "\n".join([head, *names, _style(), _markers(), *body, "</svg>"]) + "\n"


def _data() -> Iterator[str]:
    """Draw source, sampler and views, from top to bottom."""
    yield from _card("data", 8, 28, 176, 78, "Source", ("images by key,", "region proposals"))
    yield _arrow("data", "M96 106 V146")
    yield from _card("data", 8, 150, 176, 78, "Sampler", ("boxes in view groups,", "drawn by (seed, epoch, i)"))
    yield _arrow("data", "M96 228 V268")
    yield from _card("data", 8, 272, 176, 168, "Views", ("crop, resize, augment",))
    for number in range(2):
        yield from _chip("data", 24 + 76 * number, 328, 68, 44, "scene")
    for number in range(4):
        yield f'<rect class="data" x="{24 + 38 * number}" y="380" width="30" height="30" rx="4"/>'
    yield _text("data code", 96, 429, "instance", "middle")
    yield _arrow("online", "M184 340 H212 V136 H244")
    yield _arrow("target", "M184 400 H244")


def _networks() -> Iterator[str]:
    """Draw the online network above the target network that follows it."""
    yield from _card("online", 248, 28, 216, 198, "Online network", ())
    for y, part in ((66, "backbone"), (118, "projector"), (170, "predictor")):
        yield from _chip("online", 268, y, 176, 36, part)
        if y < 170:
            yield _arrow("online", f"M356 {y + 36} V{y + 48}")
    yield from _card("target", 248, 304, 216, 136, "Target network", ())
    for y, part in ((342, "backbone"), (394, "projector")):
        yield from _chip("target", 268, y, 176, 36, part)
    yield _arrow("target", "M356 378 V390")
    yield _arrow("target dashed", "M356 226 V300")
    yield _text("page", 368, 258, "moving average,")
    yield _text("page", 368, 275, "no gradient")


def _table() -> Iterator[str]:
    """Draw the table of embeddings, one line for each row that an objective reads."""
    yield from _card("table", 520, 150, 232, 290, "Embedding table", ("what no objective reads", "is not built"))
    for number, row in enumerate(ROWS):
        y = _row(number)
        yield from _chip(row.partition(".")[0], 532, y - 19, 208, 38, row)
    yield _arrow("online", f"M464 188 H488 V{_row(1)} H528")
    yield _arrow("online", f"M488 {_row(0)} H528")
    yield _arrow("target", f"M464 412 H488 V{_row(2)} H528")
    yield _arrow("target", f"M488 {_row(3)} H528")


def _objectives() -> Iterator[str]:
    """Draw the objectives, and a line from each row to those that read it."""
    yield from _card("loss", 844, 150, 188, 290, "Objectives", ("terms of the loss,", "and monitors"))
    for number, (name, rows) in enumerate(READS.items()):
        y = _objective(number)
        for place, row in enumerate(rows):
            end = y + 7 * (place - (len(rows) - 1) / 2)
            yield _arrow("page thin", f"M740 {_row(row)} C796 {_row(row)} 796 {end:g} 852 {end:g}")
        yield from _chip("loss", 856, y - 23, 164, 46, name)


def _step() -> Iterator[str]:
    """Draw the step, and the gradients that it sends back to the online network."""
    yield from _card("step", 844, 28, 188, 78, "Step", ("loss = Σ weight × term;", "optimizer, then target"))
    yield _arrow("step", "M938 150 V110")
    yield _arrow("step", "M844 67 H468")
    yield _text("page", 656, 57, "gradients", "middle")


def _row(number: int) -> int:
    return 250 + 49 * number


def _objective(number: int) -> int:
    return 258 + 66 * number


def _card(kind: str, x: int, y: int, width: int, height: int, title: str, lines: tuple[str, ...]) -> Iterator[str]:
    """Draw a box with a title and lines of text."""
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>'
    yield _text(f"{kind} title", x + 16, y + 26, title)
    for number, line in enumerate(lines):
        yield _text(kind, x + 16, y + 46 + 17 * number, line)


def _chip(kind: str, x: int, y: int, width: int, height: int, label: str) -> Iterator[str]:
    """Draw a small box with a name of the code in its middle."""
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    yield _text(f"{kind} code", x + width // 2, y + height // 2 + 4, label, "middle")


def _text(kind: str, x: int, y: int, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'


def _arrow(kind: str, path: str) -> str:
    return f'<path class="{kind}" d="{path}" marker-end="url(#{kind.partition(" ")[0]})"/>'


def _markers() -> str:
    """Return an arrow head for every kind of line."""
    heads = (
        f'<marker id="{kind}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="9" markerHeight="9" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path class="{kind} head" d="M0 1 L9 5 L0 9 z"/></marker>'
        for kind in (*LIGHT, "page")
    )
    return f"<defs>{''.join(heads)}</defs>"


def _style() -> str:
    """Return the styles: shapes and type once, colours for a light and for a dark page."""
    shapes = (
        f"text {{ font: 12.5px {SANS}; }} .title {{ font-size: 15px; font-weight: 600; }} "
        f".code {{ font: 12px {MONO}; }} rect {{ stroke-width: 1.25; }} path {{ fill: none; stroke-width: 1.75; }} "
        ".thin { stroke-width: 1.25; } .dashed { stroke-dasharray: 5 4; } "
        f"text.page {{ fill: {PAGE}; }} path.page {{ stroke: {PAGE}; }} "
        f"path.page.head {{ fill: {PAGE}; stroke: none; }}"
    )
    dark = f"@media (prefers-color-scheme: dark) {{ {_colours(DARK)} }}"
    return f"<style>\n{shapes}\n{_colours(LIGHT)}\n{dark}\n</style>"


def _colours(palette: dict[str, tuple[str, str, str]]) -> str:
    rules = (
        f"rect.{kind} {{ fill: {fill}; stroke: {line}; }} text.{kind} {{ fill: {text}; }} "
        f"path.{kind} {{ stroke: {line}; }} path.{kind}.head {{ fill: {line}; stroke: none; }}"
        for kind, (fill, line, text) in palette.items()
    )
    return "\n".join(rules)


if __name__ == "__main__":
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(draw())
