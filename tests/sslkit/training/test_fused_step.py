"""Steps without torch's preparations are torch's own, bit for bit."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sslkit.optim import make_optimizer
from sslkit.training.fused_step import FusedStep

OPTIMIZERS = {
    "sgd": ("sgd", {"momentum": 0.9, "weight_decay": 0.01}),
    "sgd, two groups": ("sgd", {"momentum": 0.9, "weight_decay": 0.01, "exclude": True}),
    "sgd, nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "sgd, no momentum": ("sgd", {"momentum": 0.0}),
    "adamw": ("adamw", {"weight_decay": 0.05, "betas": (0.8, 0.99), "eps": 1e-6}),
    "adamw, one group": ("adamw", {"exclude": False}),
    "lars": ("lars", {}),
}


class Pair:
    """Two equal networks; torch's `step` trains one, a `FusedStep` the other."""

    def __init__(self, name, options):
        self.made_from = name, options
        generator = torch.Generator().manual_seed(0)
        self.plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 4))
        self.plain.to(memory_format=torch.channels_last)
        self.fused = copy.deepcopy(self.plain)
        self.optimizers = [make_optimizer(name, part, 0.1, options) for part in (self.plain, self.fused)]
        self.step = FusedStep(self.optimizers[1])
        self.generator = generator

    def train(self, steps, lr=0.1, without=()):
        for number in range(steps):
            for plain, fused in zip(self.plain.named_parameters(), self.fused.named_parameters(), strict=True):
                grad = torch.empty_like(plain[1]).normal_(generator=self.generator)  # laid out as the parameter
                skipped = plain[0] in without
                plain[1].grad, fused[1].grad = (None, None) if skipped else (grad, grad.clone())
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr * (number + 1)
            self.optimizers[0].step()
            self.step()
        return self

    def is_equal(self):
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        pairs = zip(self.plain.parameters(), self.fused.parameters(), strict=True)
        same = all(torch.equal(a, b) for a, b in pairs)
        entries = zip(*(state["state"].values() for state in states), strict=True)
        return same and all(
            torch.equal(one[name], other[name]) for one, other in entries for name in one if one[name] is not None
        )


@pytest.fixture(params=list(OPTIMIZERS))
def pair(request):
    return Pair(*OPTIMIZERS[request.param])


def counted(monkeypatch, optimizer):
    """Count the calls of an optimizer's own step."""
    calls = []
    step = type(optimizer).step

    def counting(self, closure=None):
        calls.append(self)
        return step(self, closure)

    monkeypatch.setattr(type(optimizer), "step", counting)
    return calls


def test_steps_are_torchs_own_bit_for_bit(pair):
    assert pair.train(8).is_equal()


def test_a_loaded_state_is_continued(pair):
    pair.train(3)
    saved = copy.deepcopy([optimizer.state_dict() for optimizer in pair.optimizers])
    pair.train(2)
    for optimizer, state in zip(pair.optimizers, saved, strict=True):
        optimizer.load_state_dict(state)
    assert pair.train(4).is_equal()


def test_a_parameter_without_a_gradient_is_left_alone(pair):
    assert pair.train(3).train(2, without=["3.bias", "1.weight"]).train(2).is_equal()
    fresh = Pair(*pair.made_from)
    assert fresh.train(2, without=["0.weight"]).is_equal(), "from the start"
    assert fresh.optimizers[1].state_dict()["state"].keys() == fresh.optimizers[0].state_dict()["state"].keys()


@pytest.mark.parametrize("name", ["sgd", "sgd, two groups", "sgd, nesterov", "adamw"])
def test_a_parameter_may_get_its_first_gradient_later(name):
    """torch's fused SGD fails here; its loop over tensors does not."""
    pair = Pair(*OPTIMIZERS[name])
    if name.startswith("sgd"):
        for group in pair.optimizers[0].param_groups:
            group["fused"] = False
    pair.train(2, without=["0.weight"]).train(3)
    for one, other in zip(pair.plain.parameters(), pair.fused.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "sgd, two groups", "sgd, no momentum", "adamw"])
def test_the_kernel_is_called_alone_from_the_second_step_on(name, monkeypatch):
    pair = Pair(*OPTIMIZERS[name])
    calls = counted(monkeypatch, pair.optimizers[1])
    pair.train(5)
    assert calls.count(pair.optimizers[1]) == 1
    pair.train(1, without=["3.bias"])
    assert calls.count(pair.optimizers[1]) == 2


def test_other_optimizers_take_their_own_steps(monkeypatch):
    pair = Pair(*OPTIMIZERS["lars"])
    calls = counted(monkeypatch, pair.optimizers[1])
    assert pair.train(4).is_equal()
    assert calls.count(pair.optimizers[1]) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda params: SGD(params, lr=0.1, maximize=True, fused=True),
        lambda params: SGD(params, lr=0.1),
        lambda params: AdamW(params, lr=0.1, amsgrad=True, fused=True),
        lambda params: AdamW(params, lr=torch.tensor(0.1), fused=True),
        lambda params: AdamW([params[0], nn.Parameter(params[1].detach().double())], lr=0.1, fused=True),
    ],
)
def test_unusual_options_are_left_to_torch(make):
    def trained(by_torch):
        params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
        optimizer = make(params)
        step = optimizer.step if by_torch else FusedStep(optimizer)
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        for _ in range(3):
            for tensor in tensors:
                tensor.grad = torch.full_like(tensor, 0.5)
            step()
        return tensors

    for one, other in zip(trained(by_torch=True), trained(by_torch=False), strict=True):
        assert torch.equal(one, other)


def test_hooks_are_called_in_every_step():
    pair = Pair(*OPTIMIZERS["adamw"]).train(3)
    seen = []
    handles = [
        pair.optimizers[1].register_step_pre_hook(lambda *_: seen.append("before")),
        pair.optimizers[1].register_step_post_hook(lambda *_: seen.append("after")),
    ]
    pair.train(2)
    assert seen == ["before", "after"] * 2
    for handle in handles:
        handle.remove()
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer))
    pair.train(1)
    handle.remove()
    assert pair.optimizers[1] in seen
    assert pair.train(2).is_equal()
