"""Precision, unit vectors and cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslkit.nn import cosine_similarity, full_precision, unit, widen


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_widen_gives_float32(dtype: torch.dtype) -> None:
    assert widen(torch.ones(2, dtype=dtype)).dtype == torch.float32


def test_widen_leaves_float64() -> None:
    assert widen(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_full_precision_switches_autocast_off_and_back() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(x.device):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_full_precision_knows_meta() -> None:
    with full_precision(torch.device("meta")):
        pass


def test_cosine_is_the_cosine() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 1, 7)), rng.normal(size=(1, 3, 7))
    expected = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    actual = cosine_similarity(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-6)


def test_no_direction_means_no_cosine_and_no_gradient() -> None:
    a = torch.zeros(2, 4, requires_grad=True)
    b = torch.randn(2, 4, requires_grad=True)
    value = cosine_similarity(a, b)
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert a.grad is not None
    assert a.grad.abs().max() == 0
    assert b.grad is not None
    assert b.grad.abs().max() == 0


def test_short_vectors_still_have_a_direction() -> None:
    x = torch.tensor([3e-5, 4e-5])
    torch.testing.assert_close(unit(x), torch.tensor([0.6, 0.8]))


def test_half_precision_is_computed_in_float32() -> None:
    x = torch.full((256,), 200.0, dtype=torch.float16)  # the sum of squares is beyond float16
    assert cosine_similarity(x, x).item() == pytest.approx(1, abs=1e-6)


def test_gradient_of_unit() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))
