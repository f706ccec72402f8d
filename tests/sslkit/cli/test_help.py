"""The help texts of all commands, those of first-party plugins included."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from sslkit.cli import make_app

SHARED = (
    "--accelerator", "--cache-gb", "--checkpoint-activations", "--compile", "--devices", "--json", "--launcher",
    "--monitor-every", "--nodes", "--runs", "--set", "--slurm", "--strategy", "--workers",
)  # fmt: skip
"""Options that mean the same in every command of the core."""


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    return make_app()


def commands(group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every group and command with its words on the command line."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def test_no_summary_is_cut_off_at_80_columns(app):
    groups = [path for path, command in commands(typer.main.get_command(app)) if hasattr(command, "commands")]
    assert {(), ("data",), ("verify",), ("images",), ("proposals",)} <= set(groups)
    for path in groups:
        command = [sys.executable, "-m", "sslkit", *path, "--help"]  # typer's own runner has two columns more
        done = subprocess.run(command, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True, check=True)
        listing = done.stdout.partition("Commands:\n")[2]
        assert listing
        assert "..." not in listing, f"sslkit {' '.join(path)} --help: shorten the first sentence of\n{listing}"


def test_every_command_and_option_of_the_core_has_a_help_text(app):
    core = [item for item in commands(typer.main.get_command(app)) if item[0][:1] not in (("images",), ("proposals",))]
    for path, command in core:
        assert command.help, path
        assert not [item.name for item in command.params if not item.help], path


def test_a_shared_option_has_the_same_help_text_everywhere(app):
    texts: dict[str, set[str]] = {name: set() for name in SHARED}
    for path, command in commands(typer.main.get_command(app)):
        if path[:1] in (("images",), ("proposals",)):
            continue
        for parameter in command.params:
            for name in set(parameter.opts) & set(SHARED):
                texts[name].add(parameter.help)
    assert {name: len(found) for name, found in texts.items()} == dict.fromkeys(SHARED, 1)
