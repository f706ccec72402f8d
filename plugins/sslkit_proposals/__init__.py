"""Region proposals: selective search by OpenCV or dlib, a memory-mapped store, ORL's published files, random boxes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    import typer

    from sslkit.api import Proposer


@hookimpl
def sslkit_proposers() -> "Sequence[type[Proposer]]":
    """Return the ways to propose regions."""
    from sslkit_proposals.random_boxes import RandomBoxes
    from sslkit_proposals.selective import DlibSelectiveSearch, SelectiveSearch

    return [SelectiveSearch, DlibSelectiveSearch, RandomBoxes]


@hookimpl
def sslkit_commands(app: "typer.Typer") -> None:
    """Add `build`, `import`, `stats` and `view`."""
    from sslkit_proposals.commands import add

    add(app)
