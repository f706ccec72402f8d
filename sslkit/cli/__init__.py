"""The command line: parse, call, print. The work itself is done in the packages below."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from sslkit.cli.ablate import ablate
from sslkit.cli.commands import COMMANDS
from sslkit.cli.data import data
from sslkit.cli.doctor import doctor
from sslkit.cli.probe import probe
from sslkit.cli.run import run
from sslkit.cli.verify import verify
from sslkit.errors import PluginError
from sslkit.foreign.entries import RESERVED
from sslkit.foreign.isolation import describe, place_of
from sslkit.plugins import Plugins


class _Commands(TyperGroup):
    """The commands. None of the core's own ends by `SystemExit`: where one does, code of a plugin has raised it."""

    def invoke(self, context: Any) -> Any:
        """Run a command.

        Raises:
            PluginError: Code that a command of the core called has raised `SystemExit`.
        """
        try:
            return super().invoke(context)
        except SystemExit as error:
            if context.invoked_subcommand not in RESERVED:
                raise
            message = f"code of a plugin ended the command: {describe(error)}\n    {place_of(error)}"
            raise PluginError(message) from error


def make_app(plugins: Plugins | None = None) -> typer.Typer:
    """Build the command line with the commands of all loaded plugins."""
    plugins = plugins or Plugins.load()
    app = typer.Typer(
        name="sslkit", cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
        add_completion=True, help="A composable plugin framework for self-supervised visual pre-training.",
        epilog="Exit codes: 0 fine, 1 run failed, 2 usage, 3 recipe, 4 plugin, 5 data, 6 diverged or collapsed, "
        "75 preempted.",
    )  # fmt: skip
    app.callback(invoke_without_command=False)(_start)
    for command in (run, probe, *COMMANDS, ablate, doctor):
        app.command(command.__name__)(command)
    app.add_typer(data, name="data")
    app.add_typer(verify, name="verify")
    plugins.commands(lambda name: _sub_app(app, plugins, name))
    app.info.context_settings = {"obj": plugins, "help_option_names": ["-h", "--help"]}
    return app


def _sub_app(app: typer.Typer, plugins: Plugins, name: str) -> typer.Typer:
    """Add a group for the commands of a plugin."""
    sub = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=f"Commands of {plugins.owners[name]}.")
    app.add_typer(sub, name=name)
    return sub


def _version(requested: bool) -> None:
    if requested:
        from sslkit import __version__

        typer.echo(f"sslkit {__version__}")
        raise typer.Exit


def _start(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """A composable plugin framework for self-supervised visual pre-training."""
