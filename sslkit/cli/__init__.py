"""The command line: parse, call, print. The work itself is done in the packages below."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from sslkit.cli.ablate import ablate
from sslkit.cli.commands import COMMANDS
from sslkit.cli.data import data
from sslkit.cli.doctor import doctor
from sslkit.cli.probe import probe
from sslkit.cli.run import run
from sslkit.cli.verify import verify
from sslkit.errors import PluginError, SslkitError
from sslkit.foreign.entries import RESERVED
from sslkit.foreign.isolation import describe, is_failure
from sslkit.foreign.places import place_of
from sslkit.plugins import Owner, Plugins


class _Commands(TyperGroup):
    """The commands. None of the core's own ends by `SystemExit`: where one does, code of a plugin has raised it."""

    def invoke(self, context: Any) -> Any:
        """Run a command.

        Raises:
            PluginError: A plugin's command failed, or code that a command of the core called has raised `SystemExit`.
        """
        try:
            return super().invoke(context)
        except (SslkitError, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except BaseException as error:
            name = context.invoked_subcommand
            if name in RESERVED and isinstance(error, SystemExit):
                message = f"code of a plugin ended the command: {describe(error)}\n    {place_of(error)}"
                raise PluginError(message) from error
            if name not in context.obj.owners or isinstance(error, SystemExit) or not is_failure(error):
                raise
            if hasattr(error, "show"):  # typer shows it: the usage of the command is wrong
                raise
            raise PluginError(_failure(context.obj.owners[name], error)) from error

    def resolve_command(self, context: Any, words: list[str]) -> Any:
        """Find a command.

        Raises:
            PluginError: It is one of a plugin that is broken.
        """
        if words[:1] and self.get_command(context, words[0]) is None:
            reasons = [str(item.reason) for item in context.obj.broken if item.owner.plugin == words[0]]
            if reasons:
                raise PluginError(f"plugin '{words[0]}' is broken: " + "; ".join(reasons))
        return super().resolve_command(context, words)


def _failure(owner: Owner, error: BaseException) -> str:
    """Return the message for a plugin's own command that failed."""
    return f"{owner} failed: {describe(error)}\n    {place_of(error)}"


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
    plugins.commands(lambda name: _sub_app(plugins, name), lambda name, sub: _add(app, name, sub))
    app.info.context_settings = {"obj": plugins, "help_option_names": ["-h", "--help"]}
    return app


def _sub_app(plugins: Plugins, name: str) -> typer.Typer:
    """Return an empty group for the commands of a plugin."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=f"Commands of {plugins.owners[name]}.")


def _add(app: typer.Typer, name: str, sub: typer.Typer) -> None:
    """Add the group of a plugin, once all its commands can be made."""
    get_group(sub)
    app.add_typer(sub, name=name)


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
