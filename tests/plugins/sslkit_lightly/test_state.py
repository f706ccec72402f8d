"""Queues, centres, prototypes and seeds: what a checkpoint contains, and how it depends on the random state."""

from __future__ import annotations

import pytest
import torch
from direct import DIRECT, OBJECTIVES, loss_of

STATE = {
    "tico": {"loss.C"},
    "moco": {"loss.memory_bank.bank", "loss.memory_bank.bank_ptr"},
    "densecl": {"loss.memory_bank.bank", "loss.memory_bank.bank_ptr"},
    "nnclr": {"neighbours.bank", "neighbours.bank_ptr"},
    "dino": {"loss.center", "epoch"},
    "swav": {"prototypes.weight", "queues.0.bank", "queues.0.bank_ptr", "queues.1.bank", "queues.1.bank_ptr", "epoch"},
    "msn": {"prototypes.weight"},
    "pmsn": {"prototypes.weight"},
    "w-mse": {"seed"},
    "sigreg": {"seed"},
    "lejepa": {"seed"},
    "visreg": {"seed"},
}


def stepped(case, steps, seed=0):
    module = case.objective(seed)
    for step in range(steps):
        loss_of(module, case.rows(seed=step))
        module.after_step(step + 1, (step + 1) / 2)
    return module


@pytest.mark.parametrize("case", DIRECT, ids=str)
def test_a_resumed_objective_continues_identically(case):
    first = stepped(case, 5)
    second = case.objective(seed=9)
    second.load_state_dict(first.state_dict())
    for step in range(5, 8):
        one, other = (loss_of(module, case.rows(seed=step)) for module in (first, second))
        assert torch.equal(one, other)
        for module in (first, second):
            module.after_step(step + 1, (step + 1) / 2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_state_is_as_documented_and_changes(name):
    """Lightly's constants (such as `loss.sigreg.t`) are part of the state too, but do not change."""
    case = max((case for case in DIRECT if case.name == name), key=lambda case: "queue" in case.options)
    before = {key: value.clone() for key, value in case.objective().state_dict().items()}
    after = stepped(case, 1)
    after.after_step(2, 1.0)
    after = after.state_dict()
    prototypes = {"prototypes.weight"}  # changed only by the optimizer
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed - prototypes == STATE.get(name, set()) - prototypes
    assert prototypes & STATE.get(name, set()) <= set(after)


@pytest.mark.parametrize("case", [case for case in DIRECT if "seed" in STATE.get(case.name, ())], ids=str)
def test_random_directions_change_once_per_step_and_do_not_touch_the_global_generator(case):
    module, rows = case.objective(), case.rows(seed=0)
    state = torch.get_rng_state()
    first, again = loss_of(module, rows), loss_of(module, rows)
    assert torch.equal(first, again), "directions are the same within a step, also under accumulation"
    module.after_step(1, 0.1)
    assert not torch.equal(first, loss_of(module, rows))
    assert torch.equal(state, torch.get_rng_state())


def test_queues_add_the_batch_and_drop_the_oldest():
    """Keys are added in order, normalised to length 1, and only while gradients are recorded."""
    moco = OBJECTIVES["moco"]({"v": 2, "d": 4}, queue=6)
    before = moco.loss.memory_bank.bank.clone()
    q, k = torch.randn(4, 2, 4, requires_grad=True), torch.randn(4, 2, 4)
    moco(q.detach(), k)
    assert torch.equal(moco.loss.memory_bank.bank, before)
    moco(q, k)
    bank = moco.loss.memory_bank.bank
    torch.testing.assert_close(bank[:4], torch.nn.functional.normalize(k[:, 1], dim=1))
    assert torch.equal(bank[4:], before[4:])
    assert moco.loss.memory_bank.bank_ptr.tolist() == [4]


def test_swav_prototypes_are_unit_vectors_and_frozen_for_the_first_epochs():
    swav = OBJECTIVES["swav"]({"v": 2, "d": 8}, prototypes=5, freeze_epochs=1.0)
    z = torch.randn(6, 2, 8, requires_grad=True)

    def gradient():
        return torch.autograd.grad(swav(z, None), swav.prototypes.weight)[0]

    assert not gradient().any()
    torch.testing.assert_close(swav.prototypes.weight.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        swav.prototypes.weight.mul_(3)
    swav.after_step(10, 1.0)
    assert gradient().any()
    torch.testing.assert_close(swav.prototypes.weight.norm(dim=1), torch.ones(5))


def test_swav_counts_in_steps_where_asked():
    """Frozen for four steps and with queues from the sixth, whatever the epoch; the count is in its state."""
    options = {"prototypes": 5, "freeze_steps": 4, "queue": 12, "queue_step": 6}
    swav = OBJECTIVES["swav"]({"v": 2, "d": 8}, **options)
    z = torch.randn(6, 2, 8, requires_grad=True)
    seen = []
    swav.loss.register_forward_hook(lambda module, arguments, output: seen.append(arguments[2] is not None))
    moving = []
    for step in range(8):
        moving.append(bool(torch.autograd.grad(swav(z, None), swav.prototypes.weight)[0].any()))
        swav.after_step(step + 1, 100.0)
    assert moving == [False] * 4 + [True] * 4
    assert seen == [False] * 6 + [True] * 2
    assert swav.state_dict()["step"] == 8
    resumed = OBJECTIVES["swav"]({"v": 2, "d": 8}, **options)
    resumed.load_state_dict(swav.state_dict())
    assert torch.equal(resumed(z, None), swav(z, None))


@pytest.mark.parametrize("name", ["dino", "swav"])
def test_a_length_in_epochs_adds_nothing_to_the_state(name):
    assert "step" not in OBJECTIVES[name]({"v": 2, "d": 8}).state_dict()


def test_dino_changes_its_temperature_with_every_step_where_asked():
    """Lightly's ramp, linspace of the first and the last temperature, read at the step."""
    dino = OBJECTIVES["dino"]({"v": 2, "d": 8}, warmup_steps=4)
    z, t = torch.randn(6, 2, 8), torch.randn(6, 2, 8)
    for step, temperature in ((0, 0.04), (1, 0.05), (2, 0.06), (3, 0.07), (4, 0.07), (90, 0.07)):
        dino.loss.center.zero_()
        dino.after_step(step, 50.0)
        target = (t / temperature).softmax(-1)
        expected = -(target[:, 0] * (z[:, 1] / 0.1).log_softmax(-1) + target[:, 1] * (z[:, 0] / 0.1).log_softmax(-1))
        torch.testing.assert_close(dino(z, t, None), expected.sum(-1).mean() / 2)


def test_dino_changes_its_temperature_only_between_epochs():
    """As in lightly's schedule: the target's temperature of epoch e is entry e of a linear ramp."""
    dino = OBJECTIVES["dino"]({"v": 2, "d": 8}, warmup_epochs=3)
    z, t = torch.randn(6, 2, 8), torch.randn(6, 2, 8)
    for epoch, temperature in ((0.0, 0.04), (0.9, 0.04), (1.0, 0.055), (2.5, 0.07), (40.0, 0.07)):
        dino.loss.center.zero_()
        dino.after_step(1, epoch)
        target = (t / temperature).softmax(-1)
        expected = -(target[:, 0] * (z[:, 1] / 0.1).log_softmax(-1) + target[:, 1] * (z[:, 0] / 0.1).log_softmax(-1))
        torch.testing.assert_close(dino(z, t, None), expected.sum(-1).mean() / 2)
