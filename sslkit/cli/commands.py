"""Commands on recipes and plugins. Heavy imports stay inside functions, so that `sslkit --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_message
from sslkit.errors import RecipeError


def check(context: typer.Context, recipe: opt.RecipeOrRun, sets: opt.Sets = None, as_json: opt.Json = False) -> None:
    """Report every problem in a recipe, or what it would build."""
    from sslkit import targets

    plugins = loaded_plugins(context)
    checked = targets.check(targets.read(recipe, sets or [], plugins), plugins)
    error = checked.error()
    if error and not as_json:
        raise error
    from sslkit.cli.show.plans import describe_check, print_plan
    from sslkit.cli.show.tables import print_json

    if as_json:
        print_json(describe_check(checked.recipe_file, checked.problems, checked.plan if not error else None))
        raise typer.Exit(error.exit_code if error else 0)
    assert checked.plan is not None
    print_plan(checked.recipe_file, checked.plan)


def resolve(context: typer.Context, recipe: opt.RecipeOrRun, sets: opt.Sets = None, as_json: opt.Json = False) -> None:
    """Print a recipe with full ids, all defaults and plugin versions."""
    from sslkit import targets
    from sslkit.cli.show.tables import print_json, print_result
    from sslkit.planning import toml

    opt.results_alone(context)
    plan, _ = targets.load(recipe, sets or [], loaded_plugins(context))
    print_json(plan.resolved()) if as_json else print_result(toml.dumps(plan.resolved()))


def diff(context: typer.Context, a: opt.RecipeOrRun, b: opt.RecipeOrRun, as_json: opt.Json = False) -> None:
    """Print every value in which two recipes differ.

    Defaults are compared, too.
    """
    from sslkit import targets
    from sslkit.cli.show.plans import print_diff
    from sslkit.cli.show.tables import print_json
    from sslkit.planning import toml

    plugins = loaded_plugins(context)
    resolved = [targets.load(name, [], plugins)[0].resolved() for name in (a, b)]
    rows = list(toml.differences(*resolved))
    if as_json:
        print_json([{"key": key, "a": old, "b": new} for key, old, new in rows])
    else:
        print_diff(a, b, rows)


def schema(context: typer.Context) -> None:
    """Print a JSON schema of recipes.

    It holds the options of every installed component, and lets an editor complete and check recipes.
    """
    from sslkit.cli.show.tables import print_json
    from sslkit.planning.json_schema import recipe_schema

    opt.results_alone(context)
    print_json(recipe_schema(loaded_plugins(context)))


def recipes(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
    as_json: opt.Json = False,
) -> None:
    """List the available recipes, or print one.

    To start your own: `sslkit recipes byol_coco > mine.toml`.
    """
    from sslkit.cli.show.tables import print_json, print_result
    from sslkit.planning.recipe_file import locate, shipped_recipes, text_of

    plugins = loaded_plugins(context)
    known = shipped_recipes() | plugins.recipes()
    if name:
        print_result(text_of(locate(name, known)))
        return
    from sslkit.cli.show.plans import print_recipes

    rows = [row for id_, path in known.items() if (row := _recipe_row(id_, path))]
    print_json(rows) if as_json else print_recipes(rows)
    for broken in plugins.broken:
        print_message(f"warning: {broken.owner}: {broken.reason}")


def _recipe_row(name: str, path: Path) -> dict[str, str] | None:
    """Return a recipe's name, summary and path, or warn that it cannot be read."""
    from sslkit.planning.recipe_file import read

    try:
        summary = read(path).values.get("summary", "")
    except RecipeError as error:
        print_message(f"warning: {error}")
        return None
    return {"name": name, "summary": str(summary), "path": str(path)}


def plugins(
    context: typer.Context,
    component: Annotated[str | None, typer.Argument(help="Show this component's options.")] = None,
    as_json: opt.Json = False,
) -> None:
    """List plugins and their components, or show one component.

    Broken plugins are listed with the reason; the command then ends with code 4.
    """
    from sslkit.cli.show import plugins as show
    from sslkit.cli.show.tables import print_json

    loaded = loaded_plugins(context)
    if component:
        components = show.describe_components(loaded, component)
        print_json(components) if as_json else show.print_components(components)
        return
    listed = show.describe_plugins(loaded)
    print_json(listed) if as_json else show.print_plugins(listed)
    if loaded.broken:
        raise typer.Exit(4)


def views(
    context: typer.Context,
    recipe: opt.RecipeOrRun,
    sets: opt.Sets = None,
    out: Annotated[Path, typer.Option(help="Picture to write: PNG, JPEG, WebP or PDF.")] = Path("views.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="Number of images.")] = 6,
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose views are drawn.")] = 0,
) -> None:
    """Draw a contact sheet of images, their boxes and their views.

    The views are exactly those that the network sees in that epoch.
    """
    from sslkit import targets
    from sslkit.files import PICTURES, check_output, save_picture

    check_output(out, "--out", PICTURES)
    plan, text = targets.load(recipe, sets or [], loaded_plugins(context), data=True)
    from sslkit.data.contact_sheet import sheet
    from sslkit.data.opening import prepare

    source, proposals = prepare(plan, text)
    save_picture(sheet(plan, source, proposals, count, epoch), out)
    typer.echo(out)


COMMANDS = (check, resolve, diff, schema, recipes, plugins, views)
