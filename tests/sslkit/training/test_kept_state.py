"""State that cannot be saved, or not be restored by a run that resumes, is told at the first step."""

from __future__ import annotations

import re

import pytest
import torch

from sslkit.__main__ import main
from tests.sslkit.contracts import zoo, zoo_state
from tests.sslkit.contracts.test_zoo import BY, TABLES, train, with_zoo  # noqa: F401 - fixtures

COMMAND = ("run", "--workers", "0", "--accelerator", "cpu")


def wrong(kind, members):
    return type("Wrong", (zoo_state.BASES[kind],), {"name": "wrong", "__module__": zoo.__name__, **members})


@pytest.mark.parametrize(("kind", "members", "words"), zoo_state.CASES)
def test_state_that_no_run_could_resume_from_is_told_at_the_first_step(with_zoo, train, tmp_path, kind, members, words):  # noqa: F811
    code, told = train(with_zoo(kind, wrong(kind, members)), TABLES[kind], "steps=2")
    assert code == 4, told
    assert f"{kind} {BY}" in told
    assert words in told
    assert re.search(r"(zoo|conftest)\.py, line \d+, in |zoo_state\.py, line \d+, in ", told), told
    assert told.count(BY) == 1
    assert "Traceback" not in told
    assert not list(tmp_path.rglob("metrics.jsonl")), "no step was taken"


@pytest.fixture
def resume(train, capsys):  # noqa: F811
    """Return a function that takes two steps of three, calls a function, and resumes the run."""

    def resume(plugins, kind, between=lambda: None):
        code, told = train(plugins, TABLES[kind], "steps=3", command=(*COMMAND, "--stop-after", "2"))
        assert code == 0, told
        between()
        code = main(["run", "dots.toml", *COMMAND[1:], "--arm", "arm-0", "--set", TABLES[kind], "--set", "steps=3"])
        return code, capsys.readouterr().err

    return resume


@pytest.mark.parametrize(("kind", "members"), zoo_state.RIGHT)
def test_state_that_stays_is_saved_and_restored(with_zoo, resume, kind, members):  # noqa: F811
    code, told = resume(with_zoo(kind, wrong(kind, members)), kind)
    assert code == 0, told
    assert "resumed from" in told


def test_a_buffer_that_changes_later_is_told_then(with_zoo, train):  # noqa: F811
    change = zoo_state.after(lambda self, step: step == 2 and zoo_state.grow(self))
    members = {"__init__": zoo_state.building("objective", zoo_state.QUEUE), "after_step": change}
    code, told = train(with_zoo("objective", wrong("objective", members)), TABLES["objective"], "steps=4")
    assert code == 4, told
    assert "'queue' of shape (1, 2), which now has shape (2, 2)" in told


def test_restoring_that_fails_later_is_the_plugins_fault(with_zoo, resume):  # noqa: F811
    broken = []

    def restore(self, state):
        if broken:
            raise ValueError("of another day")

    members = {"get_extra_state": zoo.gives(torch.zeros(1)), "set_extra_state": restore}
    plugins = with_zoo("objective", wrong("objective", {**members, "__module__": __name__}))
    code, told = resume(plugins, "objective", lambda: broken.append(True))
    assert code == 4, told
    assert "step-00000002.pt cannot be restored: ValueError: of another day\n    objective 'zoo/wrong'" in told
