"""The fault campaign in its short form, and that it notices what is not survived."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sslkit.api import Objects
from sslkit.errors import DataError, PluginError

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def campaign(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.slow
def test_the_short_campaign_is_survived(tmp_path):
    command = [sys.executable, "-m", "faults", "--short", "--out", str(tmp_path / "out.json")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {part["name"]: part for part in json.loads((tmp_path / "out.json").read_text())["parts"]}
    assert set(parts) == {"recipes", "checkpoints", "images", "annotations", "components", "paths", "memory"}
    assert parts["recipes"]["cases"]["generated"] >= 60
    assert parts["recipes"]["figures"]["exit_codes"]["3"] > 50
    assert parts["checkpoints"]["figures"]["files"] == 6
    assert len(parts["checkpoints"]["figures"]["places"]) == 6
    assert parts["images"]["figures"]["unusable"] > 30
    assert parts["images"]["figures"]["damaged_but_usable"] > 0
    assert parts["annotations"]["cases"] == {"COCO": 100, "VOC": 50, "tar": 50}
    assert all(count > 5 for count in parts["annotations"]["figures"]["outcomes"].values())
    assert set(parts["components"]["cases"].values()) == {50}
    assert len(parts["components"]["figures"]["outcomes"]) == 12  # told and used, of each kind
    assert sum(parts["paths"]["cases"].values()) == 15


@pytest.mark.usefixtures("campaign")
def test_code_that_is_executed_is_noticed(tmp_path, monkeypatch):
    from faults import checkpoints

    load = torch.load
    place = checkpoints.Places(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *args, **options: load(*args, **options | {"weights_only": False}))
    canary = tmp_path / "canary"
    for name, way in (
        ("os.system in an archive", "its code was executed"),
        ("exec in an archive", "its code was executed"),
    ):
        ended = place.offer("run goes on", checkpoints.CODE[name], canary)
        assert checkpoints.judge(ended, "step", canary) == way
        assert any("canary" in did for did in ended.did) or any("os.system" in did for did in ended.did)


@pytest.mark.usefixtures("campaign")
def test_what_a_check_should_not_say_is_noticed(tmp_path):
    from faults import recipes
    from faults.recipes import Answer, Case

    file = tmp_path / "recipe.toml"
    case = Case("typo", "", (3,), "", line=7)
    assert recipes.judge(case, Answer(3, "recipe.toml:7: [seed] unknown"), file) is None
    for answer, wrong in (
        (Answer(None, "KeyError: 'x'"), "it raised: KeyError"),
        (Answer(3, "Traceback (most recent call last)\nKeyError"), "it raised"),
        (Answer(0, "fine"), "exit code 0"),
        (Answer(3, "recipe.toml:17: [seed] unknown"), "line 7 is not named"),
        (Answer(3, "recipe.toml:7: x", ("open /etc/passwd",)), "more was done than reading"),
    ):
        assert wrong in recipes.judge(case, answer, file)
    (tmp_path / "made").touch()
    assert "files were made: made" in recipes.judge(case, Answer(3, "recipe.toml:7: x"), file)


@pytest.mark.usefixtures("campaign")
def test_a_recipe_that_is_not_survived_is_made_small(tmp_path, monkeypatch):
    from faults import recipes
    from faults.outcome import Part

    monkeypatch.setattr(recipes.Checks, "__init__", lambda self, folder: None)
    monkeypatch.setattr(recipes.Checks, "wrong", lambda self, case: "a bomb" if "epochs = 2" not in case.text else None)
    part = Part("recipes")
    recipes.search(recipes.Checks(tmp_path), part, seed=0, count=200)
    [fault] = part.faults
    assert fault.what == "a bomb"
    assert "epochs = 2" not in fault.again


@pytest.mark.usefixtures("campaign")
def test_images_that_are_not_listed_or_should_not_be_are_noticed(tmp_path):
    from faults import images

    made = [images.Broken("text", "a.jpg", False), images.Broken("good", "b.jpg", True)]
    row = {"key": "a.jpg", "reason": "a.jpg is not an image"}
    assert not images.against({"a.jpg"}, [row], made)
    assert images.against({"a.jpg"}, [], made)[0][1] == "it cannot be used, and is not listed"
    assert (
        images.against({"a.jpg"}, [row, {"key": "b.jpg", "reason": "x"}], made)[0][1] == "it can be used, and is listed"
    )
    assert images.against({"a.jpg"}, [row, row], made)[0][1] == "it is listed twice"
    assert images.against({"a.jpg"}, [{**row, "reason": " "}], made)[0][1] == "it is listed without a reason"


@pytest.mark.usefixtures("campaign")
@pytest.mark.parametrize(
    ("method", "answer", "words"),
    [
        ("open", DataError("something is wrong"), "the message lacks"),
        ("open", KeyError("bbox"), "KeyError: 'bbox'"),
        ("objects", Objects(), "other objects than a plain reader's"),
        ("left_out", {}, "annotations are accounted for"),
    ],
)
def test_annotations_that_are_lost_or_badly_told_are_noticed(tmp_path, monkeypatch, method, answer, words):
    from faults import annotations

    from sslkit_images.coco import Coco

    def wrong(self, *_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Coco, method, wrong)
    part = annotations.campaign(tmp_path, seed=0, coco=30, voc=0, tars=0)
    assert any(words in fault.what for fault in part.faults)


@pytest.mark.usefixtures("campaign")
def test_components_that_are_not_told_as_they_should_be_are_noticed():
    from faults import components

    def told(words, valid):
        def call():
            if words is not None:
                raise words if isinstance(words, Exception) else PluginError(words)

        return components.judge(components.Case("it", "sample", valid, call), "sampler")[1]

    right = f"sampler 'hostile/it' of {components.OWNER}: sample() returned 3\n    {components.__file__}, line 1"
    assert told(right, False) == told(None, True) == ""
    assert "is used" in told(None, False)
    assert "the contract allows it" in told(right, True)
    assert "the message lacks" in told(right.replace("2.7", "2.8"), False)
    assert "the message lacks" in told(right.replace("sample()", "it"), False)
    assert "KeyError" in told(KeyError("x"), False)


@pytest.mark.usefixtures("campaign")
def test_commands_that_end_badly_for_a_path_are_noticed(monkeypatch):
    from faults import paths

    def ends(code, said):
        def main(words):
            sys.stdout.write(said)
            if isinstance(code, BaseException):
                raise code
            return code

        monkeypatch.setattr(paths, "main", main)
        return paths.judge(["run"])[1]

    assert ends(2, "error: it is a file") == ""
    assert "it ended with 0" in ends(0, "done")
    assert "a traceback" in ends(1, "Traceback (most recent call last)")
    assert "no reason" in ends(1, "sorry")
    assert "OSError" in ends(OSError("no"), "")


@pytest.mark.usefixtures("campaign")
def test_a_mutation_names_the_line_that_it_changed():
    from faults import recipes

    for number in range(2 * len(recipes.MUTATIONS)):
        case = recipes.mutated(0, number)
        assert case.line is None or 1 <= case.line <= case.text.count("\n") + 1
    assert recipes.generated(random.Random(3)).text != recipes.VALID


@pytest.mark.usefixtures("campaign")
def test_bits_that_differ_after_kills_are_noticed():
    from faults import kills

    from sslkit.verify.resume import Kill, ResumeComparison

    same = ResumeComparison(4, {"model": "a"}, {"model": "a"}, [Kill(1, saving=True)])
    assert not kills.judge("x", same, 1, "again")
    assert "1 of 2 kills" in kills.judge("x", same, 2, "again")[0].what
    other = ResumeComparison(4, {"model": "a"}, {"model": "b"}, [Kill(1, saving=True)])
    assert "model differs" in kills.judge("x", other, 1, "again")[0].what


@pytest.mark.usefixtures("campaign")
@pytest.mark.parametrize(
    ("growth", "kinds"), [(0.0, []), (0.03, ["own memory"]), (0.5, ["resident memory", "own memory"])]
)
def test_memory_that_grows_is_noticed(growth, kinds):
    from faults import memory
    from faults.outcome import Part

    seen = [memory.Memory(step, 900 + growth * step, 200 + growth * step) for step in range(1, 1001, 5)]
    part = Part("memory")
    memory.judge(part, seen, 1000)
    assert [fault.case for fault in part.faults] == kinds
    assert part.figures["own"]["ratio"] == pytest.approx((200 + growth * 976) / (200 + growth * 121), abs=1e-3)


@pytest.mark.usefixtures("campaign")
@pytest.mark.parametrize("steps", [[], [40], [1, 2, 3], [4, 20]])
def test_a_run_that_ended_before_it_was_measured_is_noticed(steps):
    from faults import memory
    from faults.outcome import Part

    part = Part("memory")
    memory.judge(part, [memory.Memory(step, 900, 200) for step in steps], 40)
    [fault] = part.faults
    assert "times only: train for more steps" in fault.what
