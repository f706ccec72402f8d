"""Region proposals: selective search (OpenCV, dlib), random boxes, ORL's published files, and a memory-mapped store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    import typer

    from sslkit.api import Proposer


@hookimpl
def sslkit_proposers() -> "Sequence[type[Proposer]]":
    """Return the proposers."""
    from sslkit_proposals.random_boxes import RandomBoxes
    from sslkit_proposals.selective import DlibSelectiveSearch, SelectiveSearch

    return [SelectiveSearch, DlibSelectiveSearch, RandomBoxes]


@hookimpl
def sslkit_commands(app: "typer.Typer") -> None:
    """Add the commands `build`, `import`, `stats` and `view`."""
    from sslkit_proposals.commands import add

    add(app)
