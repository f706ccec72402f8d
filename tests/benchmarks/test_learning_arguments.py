"""Arguments of the learning benchmarks: what is wrong is told by argparse, without a traceback."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_counts_are_whole_numbers_above_0():
    from learning.arguments import count

    assert count("12") == 12
    for text in ("0", "-1", "1.5", "x", "", "²"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number above 0"):
            count(text)


def test_a_study_has_a_name_and_results(tmp_path):
    from learning.arguments import study

    (tmp_path / "results.json").touch()
    assert study(f"UniVIP={tmp_path}") == ("UniVIP", tmp_path)
    for text, message in (
        (str(tmp_path), "is not NAME=RESULTS"),
        (f"={tmp_path}", "is not NAME=RESULTS"),
        (f"X={tmp_path}/other", r"has no results\.json"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            study(text)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("ceiling", [], "required: recipe, out"), ("ceiling", ["a", "b", "x"], "'x' is not a whole number above 0"),
        ("report", ["out", "foo"], "'foo' is not NAME=RESULTS"), ("report", ["out", "X=/nowhere"], "no results.json"),
        ("by_hand.__main__", ["--seeds", "0"], "'0' is not a whole number"),
        ("by_hand.views", ["--batches", "0"], "'0' is not a whole number"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told(module, arguments, message, capsys):
    import importlib

    found = importlib.import_module(f"learning.{module}")
    with pytest.raises(SystemExit) as ended:
        (found.command if hasattr(found, "command") else found.main)(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_recipe_that_is_not_there_is_told(tmp_path, capsys):
    from learning.ceiling import command

    assert command([str(tmp_path / "nope.toml"), str(tmp_path / "out.json")]) == 3
    assert "nope.toml" in capsys.readouterr().err


@pytest.mark.parametrize(("last_batch", "steps"), [("pad", 8), ("drop", 5)])
def test_the_ceiling_is_trained_as_long_as_the_recipe(small_recipe, installed, tmp_path, last_batch, steps):
    from learning.ceiling import steps_of

    from sslkit import targets

    file = tmp_path / "recipe.toml"
    file.write_text(small_recipe.replace("steps = 2", f'epochs = 2.5\nlast_batch = "{last_batch}"'))
    plan, _ = targets.load(str(file), ["source.images=10"], installed, data=True)
    assert plan.recipe.batch_size == 4
    assert steps_of(plan) == steps
    plan, _ = targets.load(str(file), ["steps=7"], installed, data=True)
    assert steps_of(plan) == 7
