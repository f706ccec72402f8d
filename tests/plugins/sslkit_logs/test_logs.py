import io
import json
import math
import os
import sys
import time
import types
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sslkit_logs
from sslkit.api import Run
from sslkit.errors import SslkitWarning
from sslkit_logs import jsonlines


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


def test_a_resumed_run_drops_records_after_its_checkpoint(run):
    write(run, range(1, 8))
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    run.step = 4
    write(run, range(5, 11))
    assert [item["step"] for item in records(run)] == list(range(1, 11))


def test_values_that_are_not_finite_become_null(run):
    sslkit_logs.sslkit_run_started(run=run)
    sslkit_logs.sslkit_step_finished(run=run, step=1, terms={"loss": math.nan, "x": math.inf})
    sslkit_logs.sslkit_run_finished(run=run)
    assert records(run) == [{"step": 1, "epoch": 0.2, "loss": None, "x": None}]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; `clock.now` moves it."""
    clock = types.SimpleNamespace(now=100.0, monotonic=lambda: clock.now, time=lambda: 1000.0 + clock.now)
    monkeypatch.setattr("sslkit_logs.buffer.time", clock)
    return clock


def test_the_file_is_written_at_once_then_once_a_second_and_before_a_checkpoint(run, clock):
    sslkit_logs.sslkit_run_started(run=run)
    written = []
    for step, now in enumerate((100.0, 100.4, 100.8, 101.0, 101.9, 102.1), 1):
        clock.now = now
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms={"loss": 0.5})
        written.append(len(records(run)))
    assert written == [1, 1, 1, 4, 4, 6]
    sslkit_logs.sslkit_step_finished(run=run, step=7, terms={"loss": 0.5})
    sslkit_logs.sslkit_checkpoint_started(run=run)
    assert len(records(run)) == 7
    sslkit_logs.sslkit_step_finished(run=run, step=8, terms={"loss": 0.5})
    assert len(records(run)) == 7
    sslkit_logs.sslkit_run_finished(run=run)
    assert [item["step"] for item in records(run)] == list(range(1, 9))


def test_a_record_is_that_of_its_step_even_if_its_terms_change_later(run, clock):
    sslkit_logs.sslkit_run_started(run=run)
    terms = {"loss": 1.0}
    for step in (1, 2):
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms=terms)
        terms["loss"] = 9.0
    sslkit_logs.sslkit_run_finished(run=run)
    assert [item["loss"] for item in records(run)] == [1.0, 9.0]


def test_a_rollback_drops_waiting_records_after_its_checkpoint_and_no_others(run, clock):
    sslkit_logs.sslkit_run_started(run=run)
    for step in (1, 2, 3, 4):
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms={"loss": 1.0})
    run.step = 2
    sslkit_logs.sslkit_run_started(run=run)
    for step in (3, 4):
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms={"loss": 2.0})
    sslkit_logs.sslkit_run_finished(run=run)
    assert [(item["step"], item["loss"]) for item in records(run)] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_events_have_the_times_of_their_steps(run, clock):
    sslkit_logs.sslkit_run_started(run=run)
    for step, now in enumerate((100.0, 100.25, 100.5), 1):
        clock.now = now
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms={"loss": 0.5})
    sslkit_logs.sslkit_run_finished(run=run)
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [(item.step, item.wall_time) for item in events.Scalars("loss")] == [(1, 1100.0), (2, 1100.25), (3, 1100.5)]


def test_records_that_a_full_disk_refuses_are_written_later(run, monkeypatch):
    """Write all lines of a call or none: a partial line is truncated."""
    file = run.folder / "metrics.jsonl"
    write(run, [1])
    run.step = 1
    sslkit_logs.sslkit_run_started(run=run)
    real_open = Path.open

    class Full(io.StringIO):
        def __exit__(self, *error):
            with real_open(file, "a") as out:
                out.write(self.getvalue()[:20])
            raise OSError(28, "No space left on device")

    def fails(path, mode="r", **kw):
        return Full() if path == file and mode == "a" else real_open(path, mode, **kw)

    monkeypatch.setattr(Path, "open", fails)
    for step in (2, 3):
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms={"loss": 0.0})
    assert [item["step"] for item in records(run)] == [1]
    with pytest.raises(OSError, match="the last 2 records of metrics.jsonl could not be written: .*No space"):
        jsonlines.finish(run)
    jsonlines.start(run)
    for step in (2, 3):
        sslkit_logs.sslkit_step_finished(run=run, step=step, terms={"loss": 0.0})
    monkeypatch.undo()
    sslkit_logs.sslkit_checkpoint_started(run=run)
    assert [item["step"] for item in records(run)] == [1, 2, 3]
    sslkit_logs.sslkit_run_finished(run=run)


FAILURES = [
    OSError(28, "No space left on device"), TypeError("Descriptors cannot be created directly.\nIf this call came"),
    ImportError("cannot import name 'notf'"), AttributeError("module 'numpy' has no attribute 'bool8'"),
    UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), RuntimeError(),
]  # fmt: skip


def refuse(error):
    def fails(*args, **kw):
        raise error

    return fails


class NoTensorBoard:
    """An importer that refuses TensorBoard."""

    def __init__(self, error):
        self.error = error

    def find_spec(self, name, *args):
        if name == "sslkit_logs.tensorboard":
            raise self.error


@pytest.fixture(params=FAILURES, ids=lambda error: type(error).__name__)
def failure(request):
    return request.param


def write_three(run):
    """Write three steps, and return the warnings."""
    with pytest.warns(SslkitWarning) as told:
        write(run, [1, 2, 3])
    assert [item["step"] for item in records(run)] == [1, 2, 3]
    assert len(told) == 1, "told once"
    text = str(told[0].message)
    assert text.endswith("; metrics.jsonl is written without it")
    assert "\n" not in text
    return text


def test_records_are_written_where_tensorboard_cannot_be_imported(run, monkeypatch, failure):
    monkeypatch.delitem(sys.modules, "sslkit_logs.tensorboard", raising=False)
    monkeypatch.delattr(sslkit_logs, "tensorboard", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTensorBoard(failure), *sys.meta_path])
    assert write_three(run).startswith(f"TensorBoard shows nothing of this run: {type(failure).__name__}: ")


@pytest.mark.parametrize(
    ("place", "consequence"),
    [
        ("FileWriter.__init__", "TensorBoard shows nothing of this run: "),
        ("FileWriter.add_summary", "TensorBoard's events end at step 1: "),
        ("SummaryWriter.close", "TensorBoard's last events are missing: "),
    ],
)
def test_records_are_written_whatever_tensorboard_does(run, monkeypatch, failure, place, consequence):
    monkeypatch.setattr(f"torch.utils.tensorboard.{place}", refuse(failure))
    assert write_three(run).startswith(f"{consequence}{type(failure).__name__}: ")


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe", b"a\x80b"])
def test_records_are_written_in_a_folder_whose_name_is_not_utf8(tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    run = Run(folder, {}, steps=10, steps_per_epoch=5)
    assert "shows nothing of this run: UnicodeEncodeError" in write_three(run)


def test_tensorboard_gets_its_events_where_records_cannot_be_written(run):
    (run.folder / "metrics.jsonl").mkdir()
    sslkit_logs.sslkit_run_started(run=run)
    sslkit_logs.sslkit_step_finished(run=run, step=1, terms={"loss": 0.5})
    sslkit_logs.sslkit_checkpoint_started(run=run)
    with pytest.raises(OSError, match="the last 1 records of metrics.jsonl could not be written: .*directory"):
        sslkit_logs.sslkit_run_finished(run=run)
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [item.value for item in events.Scalars("loss")] == [0.5]


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"\x00" * 40, b'{"step": 2, "a": "\xff"}\n', b"[]\n", b"3\n"])
def test_what_a_crash_left_in_the_file_is_dropped(run, tail):
    write(run, [1, 2])
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    run.step = 2
    write(run, [3])
    assert [item["step"] for item in records(run)] == [1, 2, 3]


def test_tensorboard_has_the_same_numbers_and_no_step_twice(run):
    write(run, range(1, 8))
    run.step = 4
    time.sleep(1.01)  # files of the same second are sorted by a counter as text, so 10 comes before 9
    write(run, range(5, 11))
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert "scene-scene/loss" in events.Tags()["scalars"]
    assert [(item.step, item.value) for item in events.Scalars("loss")] == [
        (step, float(step)) for step in range(1, 11)
    ]
