"""Networks and objectives whose gradients go wrong, and what they write into; more entries of `zoo.ZOO`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.conftest import Alike, Linear, Tiny
from tests.sslkit.contracts.zoo import head, loss, rows

FILE = __file__


def unless_meta(write: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """Return a function that writes into a tensor and returns it; on shapes alone, it only returns it."""

    def change(x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta:
            write(x)
        return x

    return change


def objective(write: Callable[[torch.Tensor], Any], row: str = "z") -> Callable[..., Any]:
    """Return an objective's forward that first writes into one of its rows."""

    def forward(self: Any, p: torch.Tensor, z: torch.Tensor) -> Any:
        unless_meta(write)({"p": p, "z": z}[row])
        return (p - z.flip(1)).square().mean()

    return forward


def backbone(write: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    return lambda self, x: Tiny.forward(self, unless_meta(write)(x))


def head_before(write: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    return lambda self, x: Linear.forward(self, unless_meta(write)(x))


def through_numpy(x: torch.Tensor) -> None:
    x.detach().numpy()[:] /= 100


def through_memory(x: torch.Tensor) -> None:
    torch.from_dlpack(x.detach())[-1] += 1


def without_grad(cls: Any) -> Callable[..., Any]:
    def forward(self: Any, x: torch.Tensor) -> Any:
        with torch.no_grad():
            return cls.forward(self, x)

    return forward


def inference(self: Any, x: torch.Tensor) -> Any:
    with torch.inference_mode():
        return Tiny.forward(self, x)


class Raising(torch.autograd.Function):
    """Its backward pass fails."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        raise KeyError("absent")


class Misshapen(Raising):
    """Its backward pass returns a gradient of another shape."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient.new_zeros(3, 3)


class TooMany(Raising):
    """Its backward pass returns a gradient more than there are inputs."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, gradient


def saved(x: torch.Tensor) -> torch.Tensor:
    y = torch.sigmoid(x)
    y += 1
    return y


def own_backward(x: torch.Tensor, **options: Any) -> torch.Tensor:
    if not x.is_meta and x.requires_grad:
        x.mean().backward(**options)
    return x.mean()


CUT = "without a gradient, which trains nothing: do not detach what it returns, nor compute it under no_grad()"
BACKBONES = [
    ("forward", without_grad(Tiny), "forward() returned no row with a gradient, so that its parameters are not"),
    ("forward", inference, "returned no row with a gradient"),
    ("forward", rows(features=torch.Tensor.detach, map=torch.Tensor.detach), "requires_grad_(False) in __init__()"),
    ("forward", rows(features=torch.zeros_like, map=torch.zeros_like), "returned no row with a gradient"),
    ("forward", backbone(lambda x: x.data.zero_()), "forward() writes into the images, which others read, too"),
    ("forward", backbone(through_numpy), "writes into the images"),
    ("forward", backbone(through_memory), "writes into the images"),
    ("forward", rows(features=torch.Tensor.double), "returned a tensor of torch.float64, which head 'fake/linear' cannot"),
    ("forward", rows(features=torch.Tensor.half), "a tensor of torch.float16, which head 'fake/linear' cannot take"),
    ("forward", rows(features=torch.Tensor.bfloat16), "a tensor of torch.bfloat16, which head"),
    ("forward", rows(features=Raising.apply), "the backward pass failed: KeyError: 'absent'"),
    ("forward", rows(features=Misshapen.apply), "returns one gradient for each input of its forward()"),
    ("forward", rows(features=lambda row: (own_backward(row, retain_graph=True), row)[1]), "forward() calls backward()"),
]  # fmt: skip
HEADS = [
    ("forward", without_grad(Linear), f"forward() returned a tensor {CUT}"),
    ("forward", head(torch.Tensor.detach), CUT),
    ("forward", head(torch.zeros_like), CUT),
    ("forward", head_before(lambda x: x.data.mul_(2)), "forward() writes into its input, which others read, too"),
    ("forward", head_before(through_numpy), "writes into its input"),
    ("forward", head_before(lambda x: x.requires_grad and x.register_hook(lambda g: 0 * g)), "changes the gradient of"),
    ("forward", head_before(lambda x: x.grad_fn and x.detach_()), "changes the gradient of its input"),
    ("forward", head(torch.Tensor.double), "a tensor of torch.float64, which head 'fake/linear' cannot take: return"),
    ("forward", head(Raising.apply), "the backward pass failed: KeyError: 'absent'"),
    ("forward", head(TooMany.apply), "returned an incorrect number of gradients"),
    ("forward", head(lambda z: saved(z)), "such as x += 1, x.clamp_() or x[i] = 0"),
    ("forward", head(lambda z: (own_backward(z, retain_graph=True), z)[1]), "forward() calls backward()"),
]  # fmt: skip
OBJECTIVES = [
    ("forward", objective(lambda z: z.data.div_(100)), "forward() writes into z, which others read, too: work on a copy"),
    ("forward", objective(through_numpy), "writes into z"),
    ("forward", objective(lambda p: p.data.clamp_(min=0), "p"), "writes into p"),
    ("forward", objective(lambda p: p.data[0].zero_(), "p"), "writes into p"),
    ("forward", objective(lambda p: p.register_hook(lambda g: g * 0), "p"), "changes the gradient of p"),
    ("forward", objective(lambda p: p.register_hook(print), "p"), "changes the gradient of p"),
    ("forward", loss(lambda d: {"a": d.mean(), "b": torch.zeros((), device="meta")}), "as term 'b' a tensor on 'meta'"),
    ("forward", loss(lambda d: torch.zeros((), device="meta", requires_grad=True)), "and its rows are on 'cpu': make it"),
    ("forward", lambda self, p, z: own_backward(p, retain_graph=True), "calls backward(), which adds gradients a second"),
    ("forward", lambda self, p, z: own_backward(p), "calls backward()"),
    ("forward", loss(lambda d: saved(d).mean()), "the backward pass failed: RuntimeError: one of the variables needed"),
    ("forward", loss(lambda d: (d.exp().clamp_(max=1) * 2).mean()), "modified by an inplace operation"),
    ("forward", loss(lambda d: Raising.apply(d).mean()), "the backward pass failed: KeyError: 'absent'"),
    ("forward", loss(lambda d: Misshapen.apply(d).mean()), "Misshapen"),
    ("forward", loss(lambda d: TooMany.apply(d).mean()), "of the same shape"),
]  # fmt: skip
CASES = [
    *(("backbone", *entry) for entry in BACKBONES),
    *(("head", *entry) for entry in HEADS),
    *(("objective", *entry) for entry in OBJECTIVES),
]


class Own(Alike):
    """Trains a parameter of its own, on rows that it detaches."""

    name = "wrong"
    rows = staticmethod(torch.Tensor.detach)

    def __init__(self, dims: Any) -> None:
        super().__init__(dims)
        self.own = torch.nn.Parameter(torch.ones(()))

    def forward(self, p: torch.Tensor, z: torch.Tensor) -> Any:
        return (self.own * self.rows(p)).square().mean()


class OwnOfTarget(Own):
    """Trains a parameter of its own on the target's rows."""

    def forward(self, p: torch.Tensor, z: torch.Tensor) -> Any:
        return (self.own * z).square().mean()


class OwnOfCopy(Own):
    """Trains a parameter of its own on copies."""

    rows = staticmethod(lambda p: p.new_ones(p.shape))


class Cutting(Linear):
    """A head that detaches its input, and trains itself alone."""

    name = "wrong"

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x.detach())


class Bank(Alike):
    """Keeps a mean of its rows with their graph."""

    name = "wrong"

    def forward(self, p: torch.Tensor, z: torch.Tensor) -> Any:
        self.bank = 0.9 * getattr(self, "bank", 0.0) + p.mean((0, 1))
        return (p * self.bank).mean()
