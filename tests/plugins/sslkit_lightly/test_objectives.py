"""What objectives reject, and the geometry of dense ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from direct import OBJECTIVES, cells, loss_of

from sslkit_lightly.dense import cell_centres


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"koleo", "sigreg", "mmcr", "directclr"}))
def test_one_view_is_rejected_with_a_message(name):
    dims = {"v": 1, "d": 2}
    with pytest.raises(ValueError, match="needs two views or more, to compare one with another; got 1"):
        OBJECTIVES[name](dims)


@pytest.mark.parametrize("name", ["dino", "swav", "msn", "lejepa", "visreg"])
def test_one_global_view_with_local_ones_is_enough(name):
    loss = OBJECTIVES[name]({"v": 1, "m": 2, "d": 8})
    rows = {"z": torch.randn(6, 1, 8), "local": torch.randn(6, 2, 8)}
    if "t" in OBJECTIVES[name].requires:
        rows["t"] = torch.randn(6, 1, 8)
    assert loss_of(loss, rows).isfinite()


def test_impossible_sizes_are_rejected_with_a_message():
    with pytest.raises(ValueError, match="size = 360, but the backbone's features have 8 entries"):
        OBJECTIVES["directclr"]({"v": 2, "f": 8})
    with pytest.raises(ValueError, match="size = 256 is less than twice the 200 entries"):
        OBJECTIVES["w-mse"]({"v": 2, "d": 200})
    loss = OBJECTIVES["w-mse"]({"v": 2, "d": 2}, size=4)
    with pytest.raises(ValueError, match="a batch of 6 does not divide into sub-batches of size = 4"):
        loss(torch.randn(6, 2, 2))


def test_a_recipes_batch_must_suit_the_objective():
    """`b`, the images of a forward pass, is known when a recipe is checked."""
    with pytest.raises(ValueError, match="a batch of 6 does not divide into sub-batches of size = 4"):
        OBJECTIVES["w-mse"]({"v": 2, "d": 2, "b": 6}, size=4)
    with pytest.raises(ValueError, match="a batch of 8 does not span 8 dimensions"):
        OBJECTIVES["w-mse"]({"v": 2, "d": 8, "b": 8}, size=16)
    OBJECTIVES["w-mse"]({"v": 2, "d": 8, "b": 8}, size=16, eps=0.1)


@pytest.mark.parametrize("name", ["moco", "nnclr", "swav"])
def test_a_queue_must_hold_the_keys_of_one_forward_pass(name):
    dims = {"v": 3, "d": 4, "b": 16}
    keys = 32 if name == "moco" else 16  # the second and the third view
    OBJECTIVES[name](dims, queue=keys)
    with pytest.raises(ValueError, match=f"queue = {keys - 1} is shorter than the {keys} keys of one forward pass"):
        OBJECTIVES[name](dims, queue=keys - 1)


def test_cell_centres():
    """By hand, and cell by cell: a mirrored view sees the right of its box on its left."""
    boxes, flipped = torch.tensor([[[10.0, 20.0, 50.0, 100.0]] * 2]), torch.tensor([[0.0, 1.0]])
    centres = cell_centres(boxes, flipped, 2, 4)
    assert centres.shape == (1, 2, 2, 4, 2)
    assert centres[0, 0, :, :, 0].tolist() == [[15.0, 25.0, 35.0, 45.0]] * 2
    assert centres[0, 1, :, :, 0].tolist() == [[45.0, 35.0, 25.0, 15.0]] * 2
    assert centres[0, 0, :, :, 1].tolist() == [[40.0] * 4, [80.0] * 4]
    boxes = torch.rand(5, 4).cumsum(-1)[:, [0, 1, 2, 3]]
    torch.testing.assert_close(
        cell_centres(boxes, torch.tensor([0.0, 1, 1, 0, 1]), 3, 2), cells(boxes, [0, 1, 1, 0, 1], (3, 2))
    )


def test_mirrored_views_of_one_box_match_cell_by_cell():
    """A map and its mirror image are equal if the flips are passed, and differ if they are not."""
    torch.manual_seed(0)
    view = torch.randn(6, 4, 3, 3)
    z = torch.stack([view, view.flip(-1)], dim=1)
    boxes = torch.tensor([0.0, 0.0, 30.0, 30.0]).expand(6, 2, 4)
    loss = OBJECTIVES["vicregl"]({"v": 2, "d": 4}, variance=0, covariance=0)
    flips = torch.tensor([0.0, 1.0]).expand(6, 2)
    assert loss(z, boxes, flips) == 0
    assert loss(z, boxes, torch.zeros(6, 2)) > 1


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-35, 1e-31, 1e-20, 1.0])
@pytest.mark.parametrize("zero", [(0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("shape", [(8, 3, 4), (4, 3, 8)])
def test_frossl_is_finite_for_views_that_are_zero(scale, zero, shape):
    torch.manual_seed(0)
    z = torch.randn(shape)
    z[:, zero] *= scale
    z.requires_grad_()
    loss = OBJECTIVES["frossl"]({"v": 3, "d": shape[2]})(z)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_a_view_that_is_zero_is_spread_as_badly_as_frossl_knows():
    """In one direction, the Frobenius norm of a covariance is its trace, and the logarithm of their ratio 0."""
    frossl = OBJECTIVES["frossl"]({"v": 2, "d": 4}, invariance=0)
    z = torch.zeros(6, 2, 4)
    assert frossl(z) == pytest.approx(0, abs=1e-5)
    z[:, :, 1] = 1
    assert frossl(z) == pytest.approx(0, abs=1e-5)
    assert frossl(torch.randn(6, 2, 4)) < -0.5
    assert not frossl(z.index_fill(1, torch.tensor([0]), torch.nan)).isfinite(), "what diverged stays so"


def test_pmsn_prior_is_a_power_law():
    prior = OBJECTIVES["pmsn"]({"v": 2, "d": 4}, exponent=0.5).prior(torch.zeros(4))
    torch.testing.assert_close(prior / prior[0], torch.tensor([1.0, 2**-0.5, 3**-0.5, 0.5]))
    assert prior.sum() == pytest.approx(1)


def test_import_is_light():
    code = "import sys, sslkit_lightly; print('torch' in sys.modules, 'lightly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
