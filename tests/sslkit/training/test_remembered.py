"""Outcomes are remembered in one file, which may be missing, damaged or not writable."""

import json
from contextlib import nullcontext

import pytest

from sslkit.errors import SslkitWarning
from sslkit.training import remembered
from sslkit.training.remembered import machine_and_work, recall, remember
from sslkit.training.trial import FLOAT32, PLAIN, Mode, Outcome

OUTCOME = Outcome({PLAIN: 0.25, Mode("bf16-mixed", "channels-last"): 0.125}, 16)
KEY = {"cpu": "abacus", "sizes": [32, 16]}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """An empty cache folder, and a process that remembers nothing."""
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache" / remembered.FILE


def forget(monkeypatch):
    monkeypatch.setattr(remembered, "_THIS_PROCESS", {})


def test_an_outcome_is_the_same_when_it_is_recalled(monkeypatch, own_cache):
    assert recall(KEY) is None
    remember(KEY, OUTCOME)
    forget(monkeypatch)
    assert recall(KEY) == OUTCOME
    assert recall({**KEY, "sizes": [32, 24]}) is None
    entry = next(iter(json.loads(own_cache.read_text()).values()))
    assert (entry["key"], entry["choice"]) == (KEY, "bf16-mixed, channels last")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"KEY": 3}', '{"KEY": {"seconds": [["32-true"]]}}', '{"KEY": {"seconds": []}}',
             '{"KEY": {"seconds": [["bf16-mixed", "contiguous", 1]], "images": 4}}']
)  # fmt: skip
def test_a_damaged_file_is_done_without_and_replaced(monkeypatch, own_cache, text):
    own_cache.parent.mkdir()
    own_cache.write_text(text.replace("KEY", remembered.digest(KEY)))
    told = pytest.warns(SslkitWarning, match="is damaged") if text in ("", "{") else nullcontext()
    with told:
        assert recall(KEY) is None
        remember(KEY, OUTCOME)
    forget(monkeypatch)
    assert recall(KEY) == OUTCOME


def test_without_a_writable_folder_the_process_alone_remembers(monkeypatch, own_cache):
    own_cache.parent.write_text("a file where the folder should be")
    with pytest.warns(SslkitWarning, match="the choice of a precision cannot be kept in the cache"):
        remember(KEY, OUTCOME)
    assert recall(KEY) == OUTCOME
    forget(monkeypatch)
    assert recall(KEY) is None


def test_the_oldest_outcomes_are_dropped(monkeypatch):
    monkeypatch.setattr(remembered, "MOST_ENTRIES", 2)
    for number in range(3):
        remember({"number": number}, OUTCOME)
    forget(monkeypatch)
    assert [recall({"number": number}) is None for number in range(3)] == [True, False, False]


def test_a_key_names_what_the_time_of_a_step_depends_on(plugins, recipe_text):
    from sslkit.planning import recipe_file
    from sslkit.planning.planner import make_plan

    def key(*sets):
        made, _ = recipe_file.check_structure(recipe_file.parse(recipe_text, "dots", "dots.toml", sets))
        return machine_and_work(make_plan(made, plugins)[0], FLOAT32)

    base = key()
    for changed in ("batch_size=8", "accumulate=2", "backbone.width=9", "augment.scene.0.size=32", "optimizer.use=lars",
                    "heads.main.projector.out=7", "forward.batch_norm=per-group"):  # fmt: skip
        assert key(changed) != base, changed
    for same in ("seed=9", "epochs=3", "objectives.alike.factor=0.5", "optimizer.base_lr=0.1", "summary=other"):
        assert key(same) == base, same
