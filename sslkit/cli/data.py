"""`sslkit data`: commands on images, before anything is trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from sslkit.cli.options import Json, Sets, loaded

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at images before a run.")


@data.callback()
def _group() -> None:
    """Keep `check` a sub-command while it is the only one."""


@data.command()
def check(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A folder of photos, a recipe, or a run's folder.")],
    sets: Sets = None,
    min_side: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="A smaller image counts as bad, pixels; min_image_side of the recipe by default."),
    ] = None,
    jobs: Annotated[Optional[int], typer.Option(min=1, help="Processes; one per core by default.")] = None,  # noqa: UP045
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also write the list here, as JSON."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read and decode every image, and list those that a run could not use; ends with code 5 when there are any."""
    from sslkit import targets
    from sslkit.cli import show
    from sslkit.data.bad_images import BadImages
    from sslkit.data.scan import scan
    from sslkit.errors import StorageError
    from sslkit.folders import cores
    from sslkit.planning.recipe import Recipe
    from sslkit.progress import bar

    plugins = loaded(context)
    least = Recipe.model_fields["min_image_side"].default
    if targets.is_photos(target):
        source = targets.open_photos(target, plugins)
    else:
        plan, _ = targets.load(target, sets or [], plugins, data=True)
        source, least = targets.opened(plan.source.make()), plan.recipe.min_image_side
    with bar() as progress:
        found = scan(source, min_side or least, jobs or cores(), progress)
    bad = BadImages(len(source), len(source), 1.0)
    bad.add(found)
    rows = bad.rows(source.key)
    if out:
        try:
            out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {out}: {error.strerror}") from error
    listed = {"images": len(source), "bad": rows}
    show.print_json(listed) if as_json else show.print_bad_images(len(source), rows, out)
    if rows:
        raise typer.Exit(5)
