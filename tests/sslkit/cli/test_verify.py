"""`sslkit verify` on runs that went wrong."""

from __future__ import annotations

import json

import pytest

from sslkit.__main__ import main


@pytest.fixture
def record(tmp_path, monkeypatch, small_recipe, capsys):
    """A run that diverged: its learning rate is absurd."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    sets = ["steps=60", "optimizer.base_lr=1e30", "optimizer.warmup_epochs=0"]
    more = [part for item in sets for part in ("--set", item)]
    assert main(["run", "small.toml", "--workers", "0", *more]) == 6
    assert "sslkit verify replay" in capsys.readouterr().err
    [folder] = (tmp_path / "runs").rglob("diverged-*")
    return folder


def test_a_diverged_step_is_done_again(record, capsys):
    assert main(["verify", "replay", str(record)]) == 0
    told = capsys.readouterr().out
    assert "first non-finite output: " in told
    assert "the same as in the record, bit for bit" in told
    assert main(["verify", "replay", str(record), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["then"] == found["now"]
    assert found["differs"] == []


def test_what_differs_ends_with_one(record, capsys):
    told = json.loads((record / "record.json").read_text())
    told["terms"]["grad_norm"] = "1.0"
    (record / "record.json").write_text(json.dumps(told))
    assert main(["verify", "replay", str(record)]) == 1
    assert "1 of " in (said := capsys.readouterr().out)
    assert "differ from the record" in said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["verify", "replay", "nowhere"], 5, "nowhere is no flight record"),
        (["verify", "replay", "RUN"], 5, "is no flight record: it has no record.json"),
    ],
)
def test_what_is_no_record_is_told(record, capsys, arguments, code, says):
    arguments = [str(record.parent) if word == "RUN" else word for word in arguments]
    assert main(arguments) == code
    assert says in (told := capsys.readouterr().err)
    assert "Traceback" not in told
