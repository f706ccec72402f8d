"""Exit codes are public API: scripts and schedulers read them."""

from __future__ import annotations

import pytest

from sslkit import errors

CODES = {
    errors.SslkitError: 1, errors.StorageError: 1, errors.UsageError: 2, errors.RecipeError: 3, errors.PluginError: 4, errors.DataError: 5,
    errors.DivergedError: 6, errors.PreemptedError: 75,
}  # fmt: skip


def test_every_failure_has_an_exit_code_of_its_own() -> None:
    assert {cls: cls.exit_code for cls in CODES} == CODES
    of_peers = {errors.PeerError}  # its code is that of the process that died
    assert set(errors.SslkitError.__subclasses__()) | {errors.SslkitError} == set(CODES) | of_peers
    assert errors.PeerError("it died", 6).exit_code == 6


@pytest.mark.parametrize(
    ("word", "hint"),
    [("resnet51", ": did you mean 'resnet50'?"), ("two-view", ": did you mean 'two-views'?"), ("zebra", "")],
)
def test_close_matches_are_named(word, hint) -> None:
    assert errors.closest(word, ["resnet50", "two-views", "vit-small"]) == hint


def test_a_recipe_error_carries_its_problems() -> None:
    problems = [errors.Problem("a"), errors.Problem("b", ("x",))]
    assert errors.RecipeError("two", problems).problems == tuple(problems)


def test_a_notebook_shows_the_message_alone() -> None:
    assert errors.DataError("no images")._render_traceback_() == ["DataError: no images"]
