import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sslkit_logs
from sslkit.api import Run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, {}, steps=10, steps_per_epoch=5)


def write(run, steps):
    sslkit_logs.sslkit_run_started(run=run)
    for step in steps:
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms={"loss": float(step), "scene-scene.loss": -1.0})
    sslkit_logs.sslkit_run_finished(run=run)


def records(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_every_step_is_a_line(run):
    write(run, range(1, 11))
    assert [(item["step"], item["epoch"], item["loss"]) for item in records(run)][4] == (5, 1.0, 5.0)
    assert len(records(run)) == 10


def test_a_resumed_run_drops_what_lies_behind_its_checkpoint(run):
    write(run, range(1, 8))
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    run.step = 4
    write(run, range(5, 11))
    assert [item["step"] for item in records(run)] == list(range(1, 11))


def test_what_is_not_finite_is_null(run):
    sslkit_logs.sslkit_run_started(run=run)
    sslkit_logs.sslkit_step_finished(run=run, step=1, terms={"loss": math.nan, "x": math.inf})
    sslkit_logs.sslkit_run_finished(run=run)
    assert records(run) == [{"step": 1, "epoch": 0.2, "loss": None, "x": None}]


def test_tensorboard_has_the_same_numbers_and_no_step_twice(run):
    write(run, range(1, 8))
    run.step = 4
    write(run, range(5, 11))
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert "scene-scene/loss" in events.Tags()["scalars"]
    assert [(item.step, item.value) for item in events.Scalars("loss")] == [
        (step, float(step)) for step in range(1, 11)
    ]
