"""The steps are those of a run, and each section gets its own time."""

from __future__ import annotations

import time

import pytest
import torch

from sslkit.doctor import steps
from sslkit.errors import DivergedError
from sslkit.training.step import TrainStep


def slowed(monkeypatch, owner, name: str, seconds: float) -> None:
    """Make a function sleep before each call."""
    inner = getattr(owner, name)

    def slow(*args, **kwargs):
        time.sleep(seconds)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def test_each_section_gets_its_own_time_and_they_add_up(stepper, monkeypatch):
    made = stepper("optimizer.clip_grad_norm=1.0", "batch_size=4")
    network, planted = made.network, {}
    for section, owner, name in (
        ("waiting for data", made.setup.source, "read"), ("online forward", network.online, "forward"),
        ("target forward", network.target, "forward"), ("objective alike", network.objectives["alike"], "forward"),
        ("backward", made.engine, "backward"), ("gradient norm, checks", made.engine, "gradient_norm"),
        ("clipping", made.setup.fabric, "clip_gradients"), ("optimizer", made.engine, "optimizer_step"),
        ("EMA", network, "update_target"), ("the rest", network, "after_step"), ("normalise", steps, "ready"),
        ("transfer", steps, "moved"), ("monitors", steps.monitors, "every_step"),
    ):  # fmt: skip
        planted[section] = 0.001 * (1 + len(planted))
        slowed(monkeypatch, owner, name, planted[section])
    with made.setup.loader(0, made.total_steps(2)) as feed:
        found = made.time(feed, 2, lambda _: None)
    calls = {"waiting for data": 4, "online forward": 2, "target forward": 2}
    assert list(found.sections) == made.section_names()
    assert set(found.sections) == set(planted)
    for section, seconds in planted.items():
        measured = found.sections[section]
        assert measured >= 0.99 * seconds * calls.get(section, 1), section
    assert sum(found.sections.values()) == pytest.approx(found.apart, rel=0.01)
    assert found.seconds == found.apart
    assert found.waiting == pytest.approx(found.sections["waiting for data"], rel=0.02)
    assert found.fastest <= found.seconds <= found.slowest


def test_the_steps_are_those_of_a_run(stepper):
    timed, plain = stepper(monitor_every=50), stepper(timed=False, monitor_every=50)
    assert type(plain) is TrainStep
    with timed.setup.loader(0, timed.total_steps(2)) as feed:
        timed.time(feed, 2, lambda _: None)
    assert timed.state.step == timed.total_steps(2) == timed.warm_up() + 2 + 2
    with plain.setup.loader(0, timed.state.step) as feed:
        for _ in range(timed.state.step):
            plain(feed)
    for name, value in plain.network.state_dict().items():
        assert torch.equal(timed.network.state_dict()[name], value), name
    assert not timed.network.online._forward_hooks
    assert "update_target" not in vars(timed.network)


def test_monitored_steps_are_timed_apart(stepper, monkeypatch):
    made = stepper(monitor_every=2)
    slowed(monkeypatch, made.state.monitors, "ranks", 0.05)
    with made.setup.loader(0, made.total_steps(3)) as feed:
        found = made.time(feed, 3, lambda _: None)
    assert found.monitored > 0.04
    assert found.slowest < found.monitored + found.fastest, "no step between them was monitored"


def test_on_a_gpu_steps_are_taken_with_and_without_waiting_for_it(stepper, monkeypatch):
    """Here, queued work is done when the device is waited for."""
    made, queue, waits = stepper(monitor_every=50), [], []

    def synchronize(device):
        waits.append(sum(queue))
        time.sleep(sum(queue))
        queue.clear()

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    made.clock.waits = True
    inner = made.engine.backward
    monkeypatch.setattr(made.engine, "backward", lambda loss: (inner(loss), queue.append(0.01)))
    counts = []
    total = made.total_steps(2)
    with made.setup.loader(0, total) as feed:
        found = made.time(feed, 2, counts.append)
    assert counts == list(range(1, total + 1))
    assert found.sections["backward"] >= 0.01
    assert [wait for wait in waits if wait > 0.015] == pytest.approx([0.03, 0.02, 0.02]), "warm-up, plain, monitored"
    assert found.fastest == found.slowest == found.seconds >= 0.01
    assert sum(found.sections.values()) == pytest.approx(found.apart, rel=0.01)


def test_a_loss_that_is_not_finite_is_reported(stepper):
    made = stepper('objectives.explode={head="main"}')
    with (
        made.setup.loader(0, made.total_steps(1)) as feed,
        pytest.raises(DivergedError, match=r"step 2 is not finite: .*explode"),
    ):
        made.time(feed, 1, lambda _: None)
    assert made.state.step == 1
