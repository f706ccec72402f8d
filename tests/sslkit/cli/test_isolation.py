"""Commands beside plugins that misbehave: what they do ends no command in silence, and reaches no other's output."""

from __future__ import annotations

import json
import os
import shlex
import tomllib
import types
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import typer

from sslkit import hookimpl
from sslkit.__main__ import main
from sslkit.api import Sample, Source, ViewSampler
from sslkit.errors import DataError
from sslkit.foreign import entries


class Distribution:
    name, version = "sslkit-bad", "0.1"


class Point:
    """Stands in for an entry point of a distribution of its own."""

    dist = Distribution()

    def __init__(self, name, load):
        self.name, self.load = name, load


@pytest.fixture
def install(monkeypatch, tmp_path, small_recipe):
    """Return a function that installs a plugin beside the first-party ones, given its hooks' results."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)

    def install(name="bad", load=None, **hooks):
        module = types.ModuleType("bad")
        for hook, value in hooks.items():
            setattr(module, hook, hookimpl(value if callable(value) else (lambda result: lambda: result)(value)))
        points = [*entry_points(group=entries.GROUP), Point(name, load or (lambda: module))]
        monkeypatch.setattr(entries, "entry_points", lambda group: points)

    return install


def ending(code):
    def end(*args, **options):
        raise SystemExit(code)

    return end


@pytest.mark.parametrize("code", [None, 0, 3, "bye"])
def test_a_plugin_that_exits_at_import_ends_no_command(install, capsys, code):
    install(load=ending(code))
    assert main(["recipes"]) == 0
    assert main(["plugins", "--json"]) == 4
    out, err = capsys.readouterr()
    assert "univip_coco" in out
    assert "plugin 'bad' (sslkit-bad 0.1): SystemExit" in err


class Exits(Source):
    """A source that ends the program."""

    name = "exits"
    where = "__init__"

    def __init__(self) -> None:
        self.end("__init__")

    def end(self, where):
        if self.where == where:
            raise SystemExit(0)

    def missing(self):
        self.end("missing")

    def open(self):
        self.end("open")

    def __len__(self):
        self.end("__len__")
        return 8

    def key(self, index):
        return str(index)

    def read(self, index):
        raise SystemExit(0)


@pytest.mark.parametrize("where", ["__init__", "missing", "open", "__len__", "read"])
def test_a_source_that_exits_is_a_failure_of_its_plugin(install, capsys, monkeypatch, where):
    monkeypatch.setattr(Exits, "where", where)
    install(sslkit_sources=[Exits])
    command = ["views", "small.toml", "--set", 'source={use="bad/exits"}']
    assert main(command) == 4
    err = capsys.readouterr().err
    assert "SystemExit: 0" in err
    assert "test_isolation.py, line" in err
    assert "Traceback" not in err


def test_a_plugin_named_like_a_command_does_not_take_its_place(install, capsys):
    install("run", sslkit_samplers=[])
    assert main(["run", "--help"]) == 0
    assert "Train a recipe" in capsys.readouterr().out
    assert main(["plugins"]) == 4
    assert "'run' is a command of sslkit" in " ".join(capsys.readouterr().out.split())


def test_what_a_plugin_prints_is_not_in_the_json(install, capfd):
    def load():
        print("hello")  # noqa: T201
        raise ImportError("no such thing")

    install(load=load)
    assert main(["plugins", "--json"]) == 4
    out, err = capfd.readouterr()
    assert [item["reason"] for item in json.loads(out)["broken"]] == ["ImportError: no such thing"]
    assert "hello" in err


class Talks(ViewSampler):
    """Print wherever it runs: when it is made, and for each image, in a loader process, too."""

    name = "talks"

    def __init__(self):
        print("made")  # noqa: T201
        os.write(1, b"from C\n")

    @property
    def groups(self):
        return {"scene": 2}

    def sample(self, height, width, proposals, rng):
        print("drawn", flush=True)  # noqa: T201
        os.write(1, b"from C\n")
        return Sample({"scene": np.array([[0, 0, width, height]] * 2, np.float32)})


@pytest.mark.parametrize(
    ("words", "parse"),
    [
        (["check", "small.toml", "--json"], json.loads), (["resolve", "small.toml", "--json"], json.loads),
        (["resolve", "small.toml"], tomllib.loads), (["schema"], json.loads),
        (["diff", "small.toml", "small.toml", "--json"], json.loads),
        (["ablate", "small.toml", "--vary", "optimizer.base_lr=0.2", "--plan", "--json"], json.loads),
        (["ablate", "small.toml", "--vary", "optimizer.base_lr=0.2", "--emit", "sh"], shlex.split),
        (["run", "small.toml", "--json", "--workers", "0"], json.loads),
        (["run", "small.toml", "--json", "--workers", "1"], json.loads),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)  # fmt: skip
def test_what_components_print_is_not_in_what_programs_read(install, capfd, words, parse):
    install(sslkit_samplers=[Talks])
    text = Path("small.toml").read_text()
    Path("small.toml").write_text(text.replace('use = "two-views"', 'use = "talks"'))
    assert main([*words]) == 0
    out, err = capfd.readouterr()
    assert parse(out) is not None
    assert not {"made", "drawn", "from C"} & set(out.splitlines())
    assert ("drawn" in err) == (words[0] == "run")
    assert {"made", "from C"} <= set(err.splitlines()) or words[0] == "schema"
    print("afterwards")  # noqa: T201
    os.write(1, b"and from C\n")
    assert set(capfd.readouterr().out.splitlines()) == {"afterwards", "and from C"}


def test_a_plugins_own_command_may_exit(install):
    def commands(app):
        app.command("end")(lambda: ending(7)())

    def sslkit_commands(app):
        commands(app)
        app.callback()(lambda: None)

    install(sslkit_commands=sslkit_commands)
    assert main(["bad", "end"]) == 7


@pytest.mark.parametrize("text", ["not toml", None, "summary = 3", "summary = []", "\x00"])
def test_a_bad_recipe_of_a_plugin_hides_no_other(install, capsys, tmp_path, text):
    bad, good = tmp_path / "bad.toml", tmp_path / "good.toml"
    good.write_text("summary = 'it is fine'")
    if text is not None:
        bad.write_text(text)
    install(sslkit_recipes=[bad, good])
    assert main(["recipes", "--json"]) == 0
    out, err = capsys.readouterr()
    listed = {row["name"]: row["summary"] for row in json.loads(out)}
    assert listed["bad/good"] == "it is fine"
    assert "univip_coco" in listed
    assert ("bad/bad" in listed) != ("bad.toml" in err)
    assert main(["recipes"]) == 0


@pytest.mark.parametrize("data", [b"summary = '\xff'", b"# \xe9\n", b"\xff\xfe\x00"])
def test_a_recipe_that_is_no_text_is_told_and_not_printed(install, capsys, tmp_path, data):
    (tmp_path / "bad.toml").write_bytes(data)
    install(sslkit_recipes=[tmp_path / "bad.toml"])
    assert main(["recipes", "bad/bad"]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert "bad.toml cannot be read: line 1 is not UTF-" in err


def faulty(add):
    def sslkit_commands(app):
        app.command("fine")(lambda: None)
        add(app)

    return sslkit_commands


def union(x: int | str = 3): ...


def unknown(x: Nope): ...  # noqa: F821


@pytest.mark.parametrize(
    "add",
    [
        lambda app: app.command("union")(union), lambda app: app.command()(unknown), lambda app: app.command()(3),
        lambda app: app.add_typer(3), lambda app: app.callback()(union), lambda app: app.command(help=3)(lambda: None),
    ],
)  # fmt: skip
def test_a_faulty_command_of_a_plugin_ends_no_other(install, capsys, add):
    install(sslkit_commands=faulty(add))
    assert main(["recipes"]) == 0
    assert main(["plugins"]) == 4
    out, err = capsys.readouterr()
    assert "sslkit_commands() failed: " in out + err
    assert main(["bad", "fine"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("error: plugin 'bad' is broken: sslkit_commands() failed: ")


class OddError(ValueError):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ZeroDivisionError("x"), 4, "plugin 'bad' (sslkit-bad 0.1) failed: ZeroDivisionError: x\n"),
        (OSError(2, "gone", "a.txt"), 4, "failed: FileNotFoundError: [Errno 2] gone: 'a.txt'\n"),
        (OddError(), 4, "failed: OddError, which has no message"), (SystemExit(3), 3, ""), (DataError("no data"), 5, "error: no data"),
        (typer.Exit(2), 2, ""), (typer.BadParameter("wrong"), 2, "wrong"), (typer.Abort(), 1, "Aborted"),
    ],
)  # fmt: skip
def test_a_plugins_own_command_that_fails_is_told_as_its_failure(install, capsys, error, code, words):
    def fail():
        raise error

    install(sslkit_commands=faulty(lambda app: app.command("fail")(fail)))
    assert main(["bad", "fail"]) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert ("test_isolation.py, line" in err) == (code == 4)
    assert main(["bad", "nope"]) == 2


class Unreadable(Source):
    """A source whose options cannot be read."""

    name = "unreadable"

    def __init__(self, *, mask: np.ndarray | None = None) -> None: ...


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["schema"], 0), (["plugins", "folder"], 0), (["check", "small.toml"], 0), (["resolve", "small.toml"], 0), (["plugins"], 4),
        (["plugins", "unreadable"], 4), (["check", "small.toml", "--set", 'source={use="unreadable"}'], 4),
        (["run", "small.toml", "--set", 'source={use="bad/unreadable"}'], 4),
    ],
)  # fmt: skip
def test_one_unreadable_signature_hides_no_other(install, capsys, words, code):
    install(sslkit_sources=[Unreadable])
    assert main(words) == code
    out, err = capsys.readouterr()
    told = " ".join((out + err).split())
    if code:
        assert "its source 'unreadable': its option 'mask' cannot be read" in told
        assert "sslkit-bad 0.1" in told
        assert "test_isolation.py, line" in told
    assert "Traceback" not in told
