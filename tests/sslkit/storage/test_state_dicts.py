"""The state dict of a file is found in its tables, whatever lies beside it; of several, one is chosen by its key."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sslkit.errors import DataError
from sslkit.storage.state_dicts import choose

NET = {"w": torch.ones(2, 3), "b": torch.ones(2), "n": torch.tensor(1)}
OTHER = {key: value + 1 for key, value in NET.items()}
FILE = Path("w.pth")
ADAM = {"state": {"w": {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}


def _chosen(content: Any, key: str = "") -> dict[str, torch.Tensor]:
    return choose(content, FILE, key, lambda tensors: f", {len(tensors) - 1} fit")


def _refused(content: Any, key: str = "") -> str:
    with pytest.raises(DataError) as caught:
        _chosen(content, key)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        NET,
        {"state_dict": NET, "epoch": 3},
        {"model": {"state_dict": NET, "epoch": 1}},
        {"a": {"b": {"c": NET}}, "optimizer": ADAM},
        {**NET, "args": {"lr": 1}},
        {**NET, "args": {"mean": torch.ones(3)}, "history": [1, 2], "best": None},
        {**NET, "__meta__": {}, "optimizer": ADAM},
        {"state_dict": NET, "queue": torch.ones(3, 3)},
        {"model": NET, "optimizer": {"a": torch.ones(3)}, "recipe": {}},
        {"model": NET, 5: "x"},
    ],
)
def test_the_only_state_dict_is_found(content: dict[Any, Any]) -> None:
    assert _chosen(content) == NET


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"student": NET, "teacher": OTHER}, "teacher"),
        ({"model": {"student": NET, "teacher": OTHER}, "epoch": 1}, "model.teacher"),
        ({"model": {"state_dict": NET}, "ema": {"shadow": {"params": OTHER}}}, "ema.shadow.params"),
        ({"model.ema": OTHER, "model": NET}, "model.ema"),
        ({"state_dict": OTHER}, "state_dict"),
    ],
)
def test_a_key_chooses_one_of_several(content: dict[str, Any], key: str) -> None:
    assert _chosen(content, key) == OTHER


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"student": NET, "teacher": OTHER}, ["student", "teacher"]),
        ({"state_dict": NET, "state_dict_ema": OTHER, "optimizer": ADAM}, ["state_dict", "state_dict_ema"]),
        ({"net": {"online": NET, "target": OTHER}}, ["net.online", "net.target"]),
        ({"model": {"state_dict": NET}, "ema": OTHER}, ["model.state_dict", "ema"]),
    ],
)
def test_several_are_listed_with_what_fits(content: dict[str, Any], names: list[str]) -> None:
    lines = [f"    {name}: 3 tensors, 2 fit" for name in names]
    assert _refused(content).splitlines() == ["w.pth holds 2 state dicts: write --key NAME for one of them", *lines]


def test_the_first_ten_are_listed_and_the_rest_counted() -> None:
    lines = _refused({f"fold{number}": NET for number in range(14)}).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert lines[-1] == "    ... (4 more)"


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (
            {"student": NET, "teacher": OTHER},
            "teachr",
            "no state dict 'teachr': did you mean 'teacher'?\n    student: 3",
        ),
        ({"model": {"student": NET}}, "student", "no state dict 'student': did you mean 'model.student'?"),
        ({"student": NET, "epoch": 3}, "epoch", "no state dict 'epoch'\n    student: 3"),
        (NET, "teacher", "one state dict, not several, so none is called 'teacher': leave out --key"),
        ({f"teacher.{key}": value for key, value in NET.items()}, "teacher", "write --prefix teacher. instead"),
    ],
)
def test_a_key_that_is_not_there_is_told_with_those_that_are(content: dict[str, Any], key: str, message: str) -> None:
    assert message in _refused(content, key)


def _in_itself() -> dict[str, Any]:
    table: dict[str, Any] = {}
    table["x"] = table
    return table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it is an empty dict; save the state dict alone: torch.save(model.state_dict(), ...)"),
        ([], "it is an empty list;"),
        ([NET, {"lr": 1}], "it is a list of 2: dict, dict;"),
        ((NET, 3), "it is a tuple of 2: dict, int;"),
        (torch.ones(3), "it is one tensor of shape [3];"),
        ("w", "it is of type str;"),
        ({1: torch.ones(3)}, "it is a dict with the keys 1;"),
        ({f"k{number}": 0 for number in range(13)}, "k8, k9, ... (3 more);"),
        ({"k" * 999: 0}, f"the keys {'k' * 80}...;"),
        (_in_itself(), "it is a dict with the keys x;"),
    ],
)
def test_what_holds_no_state_dict_is_described(content: Any, message: str) -> None:
    text = _refused(content)
    assert text.startswith("w.pth holds no state dict: it is ")
    assert message in text
