"""Each objective is lightly's own loss: the same value and gradients as calling lightly directly."""

from __future__ import annotations

import copy

import pytest
import torch
from direct import DIRECT, OBJECTIVES, loss_of

import sslkit_lightly

RESTATED = {"moco-v3"}
"""Objectives compared with another form of the paper's equation, which rounds differently."""


def test_every_objective_has_a_reference():
    assert {case.name for case in DIRECT} == set(OBJECTIVES)
    assert len(sslkit_lightly.sslkit_objectives()) == len(OBJECTIVES) == 28
    assert len({str(case) for case in DIRECT}) == len(DIRECT) == 38


def differentiable(ours, rows):
    online = [row for row in rows.values() if row is not None and row.requires_grad]
    return [*online, *ours.parameters()]


@pytest.mark.parametrize("case", DIRECT, ids=str)
def test_objective_is_lightly_called_directly(case):
    """Over three steps, so that queues, centres, temperatures and random directions change as lightly's do."""
    ours = case.objective()
    reference = case.make(ours)
    tolerance = {"rtol": 1e-6, "atol": 0} if case.name in RESTATED else {"rtol": 0, "atol": 0}
    for epoch in range(3):
        rows = case.rows(seed=epoch)
        same = copy.deepcopy(rows)
        loss, expected = loss_of(ours, rows), reference(**same, epoch=epoch)
        torch.testing.assert_close(loss, expected, **tolerance)
        gradients = torch.autograd.grad(loss, differentiable(ours, rows), materialize_grads=True)
        direct = torch.autograd.grad(expected, differentiable(ours, same), materialize_grads=True)
        frozen = len(list(ours.parameters())) if epoch < getattr(ours, "freeze_epochs", 0) else 0
        direct = [*direct[: len(direct) - frozen], *map(torch.zeros_like, direct[len(direct) - frozen :])]
        torch.testing.assert_close(list(gradients), direct, rtol=1e-5, atol=1e-7)
        assert any(gradient.any() for gradient in gradients)
        ours.after_step(epoch + 1, float(epoch + 1))


def test_weighted_parts_add_up_to_lightlys_vicregl():
    """`vicreg` with half the covariance on one head and `vicregl` on another, weighted by alpha and 1 - alpha."""
    from direct import cells
    from lightly.loss import VICRegLLoss

    whole = next(case for case in DIRECT if case.name == "vicreg")
    local = next(case for case in DIRECT if case.name == "vicregl").objective()
    vicreg = whole.cls({"v": 2, "d": 8}, covariance=0.5)
    z = torch.randn(6, 2, 8)
    maps, boxes, flipped = next(case for case in DIRECT if case.name == "vicregl").rows(0, batch=6).values()
    ours = 0.75 * vicreg(z) + 0.25 * local(maps, boxes, flipped)
    grids = [cells(boxes[:, i], flipped[:, i], maps.shape[-2:]) for i in range(2)]
    views = [(z[:, i], maps[:, i].permute(0, 2, 3, 1)) for i in range(2)]
    expected = VICRegLLoss(alpha=0.75, num_matches=(4, 2))(views, grids)[0]
    torch.testing.assert_close(ours, expected)


def test_byol_is_half_of_univips_scene_scene(installed):
    """Check the scale that the docstring states."""
    p, z = torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    univip = installed.find("objective", "univip/scene-scene").cls({"v": 3, "d": 8})
    torch.testing.assert_close(2 * OBJECTIVES["byol"]({"v": 3, "d": 8})(p, z), univip(p, z))
    squared = installed.find("objective", "univip/scene-scene").cls({"v": 3, "d": 8}, pair_loss="squared-distance")
    torch.testing.assert_close(4 + 4 * OBJECTIVES["byol"]({"v": 3, "d": 8})(p, z), squared(p, z))


def test_emp_ssl_prefers_spread_embeddings_and_lightlys_own_sign_does_not():
    """Show why the sign of the coding rate is flipped: with lightly's, collapsed embeddings have the lowest loss."""
    from lightly.loss import EMPSSLLoss

    spread = torch.eye(8).repeat(4, 1).unsqueeze(1).expand(-1, 2, -1)
    collapsed = torch.ones(32, 2, 8) / 8**0.5
    ours = OBJECTIVES["emp-ssl"]({"v": 2, "d": 8})
    assert ours(spread) < ours(collapsed)
    assert EMPSSLLoss()(list(spread.unbind(1))) > EMPSSLLoss()(list(collapsed.unbind(1)))
