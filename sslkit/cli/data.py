"""`sslkit data`: commands on images, before anything is trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins

if TYPE_CHECKING:
    from sslkit.api import Source
    from sslkit.plugins import Plugins

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check images before a run.")


@data.callback()
def _group() -> None:
    """Keep `check` a sub-command while it is the only one."""


@data.command()
def check(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A folder of images, a recipe, or a run's folder.")],
    sets: opt.Sets = None,
    min_side: Annotated[
        int | None,
        typer.Option(min=1, help="Smallest side of a usable image, pixels; the recipe's min_image_side by default."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Processes; one per core by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the list to this file, as JSON.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Decode every image, and list those that cannot be used.

    Annotations are checked, too, and what they leave out is counted, as are images that EXIF turns upright. Ends with
    code 5 if an image cannot be used.
    """
    from sslkit.cli.show.runs import print_bad_images, print_frames, print_objects
    from sslkit.cli.show.tables import print_json
    from sslkit.data.bad_images import BadImages
    from sslkit.data.scan import scan
    from sslkit.files import check_output
    from sslkit.folders import cores
    from sslkit.progress import bar

    if out:
        check_output(out, "--out")

    source, least = _open(target, sets or [], loaded_plugins(context))
    with bar() as progress:
        findings = scan(source, min_side or least, jobs or cores(), progress)
    bad = BadImages(len(source), len(source), 1.0)
    bad.add(findings.bad)
    rows = bad.rows(source.key)
    if out:
        _write(out, rows)
    left_out = {**source.left_out(), "objects outside their image": findings.outside}
    left_out = {what: count for what, count in left_out.items() if count}
    if as_json:
        counts = {"objects": findings.objects, "left_out": left_out, "frames": findings.frames}
        print_json({"images": len(source), "bad": rows} | counts)
    else:
        print_bad_images(len(source), rows, out)
        print_objects(findings.objects, left_out)
        print_frames(findings.frames)
    if rows:
        raise typer.Exit(5)


def _open(target: str, sets: list[str], plugins: Plugins) -> tuple[Source, int]:
    """Return the opened source of a target, and the smallest side of an image that it allows."""
    from sslkit import targets
    from sslkit.data.opening import open_source
    from sslkit.planning.recipe import Recipe

    if targets.is_image_folder(target):
        return targets.open_image_folder(target, plugins), Recipe.model_fields["min_image_side"].default
    plan, _ = targets.load(target, sets, plugins, data=True)
    return open_source(plan.source), plan.recipe.min_image_side


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    from sslkit.files import replace_file

    with replace_file(out) as part:
        part.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
