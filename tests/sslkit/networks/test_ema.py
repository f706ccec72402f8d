"""The target's update, bit for bit where possible."""

import pytest
import torch
from torch import Tensor

from sslkit.networks.ema import ema_update


def _tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in [(7, 5), (3, 2, 3, 3), (11,), ()]]


@pytest.mark.parametrize("momentum", [0.01, 0.4, 0.5, 0.99, 0.996, 0.999999])
def test_agrees_with_the_formula_in_float64(momentum: float) -> None:
    target, online = _tensors(0), _tensors(1)
    expected = [t.double() * momentum + o.double() * (1 - momentum) for t, o in zip(target, online, strict=True)]
    ema_update(target, online, momentum)
    for got, want in zip(target, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=3e-7, atol=3e-7)


def test_many_steps_follow_the_recursion() -> None:
    target = [torch.zeros(4)]
    values = [1 - 0.99**k for k in (1, 10, 100)]
    seen = []
    for _ in range(100):
        ema_update(target, [torch.ones(4)], 0.99)
        seen.append(target[0][0].item())
    assert [seen[0], seen[9], seen[99]] == pytest.approx(values, rel=1e-5)


def test_momentum_one_leaves_every_bit() -> None:
    target = [torch.tensor([-0.0, 1e-45, float("inf"), 1.5])]
    before = target[0].view(torch.int32).clone()
    ema_update(target, [torch.tensor([1.0, float("nan"), 2.0, float("-inf")])], 1.0)
    assert torch.equal(target[0].view(torch.int32), before)


def test_momentum_zero_copies() -> None:
    target, online = _tensors(0), _tensors(1)
    target[0][0, 0] = float("nan")
    ema_update(target, online, 0.0)
    assert all(torch.equal(t, o) for t, o in zip(target, online, strict=True))


@pytest.mark.parametrize("momentum", [0.3, 0.99, 0.12345])
def test_what_agrees_stays_to_the_bit(momentum: float) -> None:
    target = _tensors(3)
    ema_update(target, [tensor.clone() for tensor in target], momentum)
    assert all(torch.equal(t, o) for t, o in zip(target, _tensors(3), strict=True))


def test_works_in_place_on_parameters_without_touching_the_online_ones() -> None:
    target, online = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    pointers = [p.data_ptr() for p in target.parameters()]
    before = [p.detach().clone() for p in online.parameters()]
    ema_update(list(target.parameters()), list(online.parameters()), 0.5)
    assert pointers == [p.data_ptr() for p in target.parameters()]
    assert all(torch.equal(p, k) for p, k in zip(online.parameters(), before, strict=True))
    assert all(p.requires_grad and p.grad_fn is None for p in target.parameters())


def test_nothing_to_do_is_fine() -> None:
    ema_update([], [], 0.5)


def test_refuses_what_does_not_pair_up() -> None:
    with pytest.raises(ValueError, match="2 target and 1 online tensors do not pair up"):
        ema_update(_tensors(0)[:2], _tensors(1)[:1], 0.5)
    with pytest.raises(ValueError, match="by shape"):
        ema_update([torch.zeros(5)], [torch.zeros(1)], 0.5)
    with pytest.raises(ValueError, match=r"target momentum = 1\.1"):
        ema_update([], [], 1.1)
