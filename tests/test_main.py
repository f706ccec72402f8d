"""The command line shows warnings for the user as one line each."""

from __future__ import annotations

import warnings

import pytest

import sslkit.cli
from sslkit.__main__ import main
from sslkit.errors import SslkitWarning


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_warning_is_shown_once_as_one_line(monkeypatch, capsys, times):
    def app(**options):
        for _ in range(times):
            with warnings.catch_warnings():  # Python then forgets what it has shown
                warnings.filterwarnings("ignore", message="something else")
            warnings.warn("the index is made again", SslkitWarning, stacklevel=1)

    monkeypatch.setattr(sslkit.cli, "make_app", lambda: app)
    for _ in range(2):
        assert main([]) == 0
        assert capsys.readouterr().err == "warning: the index is made again\n"


def test_warnings_that_are_not_ours_are_shown_as_usual(monkeypatch):
    def app(**options):
        warnings.warn("a library's", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr(sslkit.cli, "make_app", lambda: app)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = []
        warnings.showwarning = show = lambda message, *place, **options: shown.append(str(message))
        assert main([]) == 0
        assert warnings.showwarning is show, "as before"
    assert shown == ["a library's"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
        (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y: Permission denied\n"),
        (OSError("the disk is gone"), "error: the disk is gone\n"),
    ],
)
def test_what_the_system_refuses_ends_in_words(monkeypatch, capsys, error, line):
    def app(**options):
        raise error

    monkeypatch.setattr(sslkit.cli, "make_app", lambda: app)
    assert main([]) == 1
    assert capsys.readouterr().err == line
