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
    timed_steps = stepper("optimizer.clip_grad_norm=1.0", "batch_size=4")
    network, planted = timed_steps.network, {}
    for section, owner, name in (
        ("waiting for data", timed_steps.setup.source, "read"), ("online forward", network.online, "forward"),
        ("target forward", network.target, "forward"), ("objective alike", network.objectives["alike"], "forward"),
        ("backward", timed_steps.engine, "backward"), ("gradient norm, checks", timed_steps.engine, "gradient_norm"),
        ("clipping", timed_steps.setup.fabric, "clip_gradients"), ("optimizer", timed_steps.engine, "optimizer_step"),
        ("EMA", network, "update_target"), ("the rest", network, "after_step"), ("normalise", steps, "augment_and_normalise"),
        ("transfer", steps, "move_to_device"), ("monitors", steps.monitors, "every_step"),
    ):  # fmt: skip
        planted[section] = 0.001 * (1 + len(planted))
        slowed(monkeypatch, owner, name, planted[section])
    with timed_steps.setup.loader(0, timed_steps.total_steps(2)) as loader:
        measured_steps = timed_steps.time(loader, 2, lambda _: None)
    calls = {"waiting for data": 4, "online forward": 2, "target forward": 2}
    assert list(measured_steps.sections) == timed_steps.section_names()
    assert set(measured_steps.sections) == set(planted)
    for section, seconds in planted.items():
        measured = measured_steps.sections[section]
        assert measured >= 0.99 * seconds * calls.get(section, 1), section
    assert sum(measured_steps.sections.values()) == pytest.approx(measured_steps.apart, rel=0.15)
    assert measured_steps.seconds == measured_steps.apart
    assert measured_steps.waiting == pytest.approx(measured_steps.sections["waiting for data"], rel=0.02)
    assert measured_steps.fastest <= measured_steps.seconds <= measured_steps.slowest


def test_the_steps_are_those_of_a_run(stepper):
    timed, plain = stepper(monitor_every=50), stepper(timed=False, monitor_every=50)
    assert type(plain) is TrainStep
    with timed.setup.loader(0, timed.total_steps(2)) as loader:
        timed.time(loader, 2, lambda _: None)
    assert timed.state.step == timed.total_steps(2) == timed.warm_up() + 2 + 2
    with plain.setup.loader(0, timed.state.step) as loader:
        for _ in range(timed.state.step):
            plain(loader)
    for name, value in plain.network.state_dict().items():
        assert torch.equal(timed.network.state_dict()[name], value), name
    assert not timed.network.online._forward_hooks
    assert "update_target" not in vars(timed.network)


def test_monitored_steps_are_timed_apart(stepper, monkeypatch):
    timed_steps = stepper(monitor_every=2)
    slowed(monkeypatch, timed_steps.state.monitors, "ranks", 0.05)
    with timed_steps.setup.loader(0, timed_steps.total_steps(3)) as loader:
        measured_steps = timed_steps.time(loader, 3, lambda _: None)
    assert measured_steps.monitored > 0.04
    assert measured_steps.slowest < measured_steps.monitored + measured_steps.fastest, (
        "no step between them was monitored"
    )


def test_on_a_gpu_steps_are_taken_with_and_without_waiting_for_it(stepper, monkeypatch):
    """Here, queued work is done when the device is waited for."""
    timed_steps, queue, waits = stepper(monitor_every=50), [], []

    def synchronize(device):
        waits.append(sum(queue))
        time.sleep(sum(queue))
        queue.clear()

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    timed_steps.clock.waits = True
    inner = timed_steps.engine.backward
    monkeypatch.setattr(timed_steps.engine, "backward", lambda loss: (inner(loss), queue.append(0.01)))
    counts = []
    total = timed_steps.total_steps(2)
    with timed_steps.setup.loader(0, total) as loader:
        measured_steps = timed_steps.time(loader, 2, counts.append)
    assert counts == list(range(1, total + 1))
    assert measured_steps.sections["backward"] >= 0.01
    assert [wait for wait in waits if wait > 0.015] == pytest.approx([0.03, 0.02, 0.02]), "warm-up, plain, monitored"
    assert measured_steps.fastest == measured_steps.slowest == measured_steps.seconds >= 0.01
    assert sum(measured_steps.sections.values()) == pytest.approx(measured_steps.apart, rel=0.15)


def test_a_loss_that_is_not_finite_is_reported(stepper):
    timed_steps = stepper('objectives.explode={head="main"}')
    with (
        timed_steps.setup.loader(0, timed_steps.total_steps(1)) as loader,
        pytest.raises(DivergedError, match=r"step 2 is not finite: .*explode"),
    ):
        timed_steps.time(loader, 1, lambda _: None)
    assert timed_steps.state.step == 1
