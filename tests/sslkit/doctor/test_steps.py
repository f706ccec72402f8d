"""The steps are those of a run, and their time is where it was spent."""

from __future__ import annotations

import time

import pytest
import torch

from sslkit.doctor import steps
from sslkit.errors import DivergedError
from sslkit.training.step import Stepper


def slowed(monkeypatch, owner, name: str, seconds: float) -> None:
    """Let a function sleep before it does what it does."""
    inner = getattr(owner, name)

    def slow(*args, **kwargs):
        time.sleep(seconds)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def test_time_is_counted_where_it_is_spent_and_adds_up(stepper, monkeypatch):
    made = stepper("optimizer.clip_grad_norm=1.0", "batch_size=4")
    network, planted = made.network, {}
    for section, owner, name in (
        ("waiting for data", made.source, "read"), ("online forward", network.online, "forward"),
        ("target forward", network.target, "forward"), ("objective alike", network.objectives["alike"], "forward"),
        ("backward", made, "backward"), ("gradient norm, checks", made, "_grad_norm"),
        ("clipping", made.fabric, "clip_gradients"), ("optimizer", made, "update"),
        ("EMA", network, "update_target"), ("the rest", network, "after_step"), ("normalise", steps, "ready"),
        ("transfer", steps, "moved"), ("monitors", steps.monitors, "every_step"),
    ):  # fmt: skip
        planted[section] = 0.001 * (1 + len(planted))
        slowed(monkeypatch, owner, name, planted[section])
    with made.feed(made.most(2)) as feed:
        found = made.time(feed, 2, lambda _: None)
    calls = {"waiting for data": 4, "online forward": 2, "target forward": 2}
    assert list(found.sections) == made.order()
    assert set(found.sections) == set(planted)
    for section, seconds in planted.items():
        spent = found.sections[section]
        assert spent >= 0.99 * seconds * calls.get(section, 1), section
    assert sum(found.sections.values()) == pytest.approx(found.apart, rel=0.01)
    assert found.seconds == found.apart
    assert found.waiting == pytest.approx(found.sections["waiting for data"], rel=0.02)
    assert found.fastest <= found.seconds <= found.slowest


def test_the_steps_are_those_of_a_run(stepper):
    timed, plain = stepper(monitor_every=50), stepper(timed=False, monitor_every=50)
    assert type(plain) is Stepper
    with timed.feed(timed.most(2)) as feed:
        timed.time(feed, 2, lambda _: None)
    assert timed.step == timed.most(2) == timed.warm_up() + 2 + 2
    with plain.feed(timed.step) as feed:
        for _ in range(timed.step):
            plain.optimizer_step(feed)
    for name, value in plain.network.state_dict().items():
        assert torch.equal(timed.network.state_dict()[name], value), name
    assert not timed.network.online._forward_hooks
    assert "update_target" not in vars(timed.network)


def test_monitored_steps_are_timed_apart(stepper, monkeypatch):
    made = stepper(monitor_every=2)
    slowed(monkeypatch, made.monitors, "ranks", 0.05)
    with made.feed(made.most(3)) as feed:
        found = made.time(feed, 3, lambda _: None)
    assert found.monitored > 0.04
    assert found.slowest < found.monitored + found.fastest, "no step between them was monitored"


def test_on_a_gpu_steps_are_taken_with_and_without_waiting_for_it(stepper, monkeypatch):
    """Work that is asked for is done, here, when somebody waits for it."""
    made, queue, waits = stepper(monitor_every=50), [], []

    def synchronize(device):
        waits.append(sum(queue))
        time.sleep(sum(queue))
        queue.clear()

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    made.clock.waits = True
    inner = made.backward
    monkeypatch.setattr(made, "backward", lambda loss: (inner(loss), queue.append(0.01)))
    told = []
    most = made.most(2)
    with made.feed(most) as feed:
        found = made.time(feed, 2, told.append)
    assert told == list(range(1, most + 1))
    assert found.sections["backward"] >= 0.01
    assert [wait for wait in waits if wait > 0.015] == pytest.approx([0.03, 0.02, 0.02]), "warm-up, plain, monitored"
    assert found.fastest == found.slowest == found.seconds >= 0.01
    assert sum(found.sections.values()) == pytest.approx(found.apart, rel=0.01)


def test_a_loss_that_is_not_finite_is_told(stepper):
    made = stepper('objectives.explode={head="main"}')
    with made.feed(made.most(1)) as feed, pytest.raises(DivergedError, match=r"step 2 is not finite: .*explode"):
        made.time(feed, 1, lambda _: None)
    assert made.step == 1
