"""The command line shows warnings for the user as one line each."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (lambda: torch.empty(10**15), " (asked for 4000000000000000 bytes)"),
        (lambda: np.empty(10**15), " (asked for 7.11 PiB)"),
        (lambda: bytearray(10**17), ""),
        (
            lambda: _fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")),
            " (asked for 20.00 GiB)",
        ),
    ],
)
def test_where_memory_does_not_suffice_it_is_told_in_one_line(monkeypatch, capsys, make, asked):
    monkeypatch.setattr(sslkit.cli, "make_app", lambda: lambda **options: make())
    assert main([]) == 1
    assert capsys.readouterr().err.startswith(f"error: not enough memory{asked}: reduce batch_size")


def test_other_failures_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sslkit.cli, "make_app", lambda: lambda **options: _fail(RuntimeError("wrong shape")))
    with pytest.raises(RuntimeError, match="wrong shape"):
        main([])


def _fail(error):
    raise error


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
