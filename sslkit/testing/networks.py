"""Checks of backbones and heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslkit.axes import Axis, parse, unify
from sslkit.testing.case import Case
from sslkit.testing.fakes import SIZES


def images(size: int, n: int = 2, device: str = "cpu") -> Tensor:
    """Make normally distributed images (n 3 size size)."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size)).to(device)


def _first(returned: Any) -> Tensor:
    tensor = returned["features"] if isinstance(returned, Mapping) else returned
    assert isinstance(tensor, Tensor)
    return tensor


def _input(case: Case, n: int = 4) -> Tensor:
    """Make an input of the shape that the network takes."""
    if case.kind == "backbone":
        return images(case.sizes[0], n)
    d = case.wiring[0]["d"]
    shape = {"map": (n, d, SIZES["h"], SIZES["w"]), "tokens": (n, SIZES["t"], d)}.get(case.cls.takes, (n, d))
    return torch.randn(shape, generator=torch.Generator().manual_seed(n))


def check_gives(case: Case) -> None:
    """`gives` holds `features` and other valid rows, and `dim` is a positive number."""
    gives = case.shared.gives
    assert gives.get("features") == "f", f"gives = {dict(gives)}: add 'features': 'f'"
    for row, axes in gives.items():
        assert row in ("features", "map", "tokens"), (
            f"gives names the unknown row '{row}': write features, map or tokens"
        )
        try:
            parse(axes)
        except ValueError as error:
            raise AssertionError(str(error)) from None
    dim = case.shared.dim
    assert isinstance(dim, int) and dim > 0, f"dim = {dim!r}: set it to the length of the features"  # noqa: PT018


def check_shapes(case: Case) -> None:
    """The outputs agree with `gives` and `dim`, for images of several sizes."""
    net = case.shared.eval()
    for size in case.sizes:
        with torch.no_grad():
            _check_rows(net, net(images(size)), f"for images of {size} x {size}")


def _check_rows(net: Any, rows: Any, where: str) -> None:
    assert isinstance(rows, Mapping), f"forward returned {type(rows).__name__}: return a dict of rows"
    assert set(rows) == set(net.gives), f"gives names {sorted(net.gives)}, but forward returned {sorted(rows)}"
    for name, row in rows.items():
        bound: dict[str, Axis] = {"n": 2, "f": net.dim}
        reason = unify(("n", *parse(net.gives[name])), tuple(row.shape), bound)
        assert reason is None, f"'{name}' has shape {tuple(row.shape)} {where}, and dim is {net.dim}: {reason}"
        assert row.isfinite().all(), f"'{name}' is not finite {where}"


def check_shapes_on_meta(case: Case) -> None:
    """On torch's meta device, which `sslkit check` uses, `dim` and output shapes are the same as elsewhere."""
    with torch.device("meta"):
        net = case.make()
    assert net.dim == case.shared.dim, f"dim is {net.dim} on the meta device, but {case.shared.dim} elsewhere"
    shapes = {name: tuple(row.shape) for name, row in net.train()(images(case.sizes[0], device="meta")).items()}
    with torch.no_grad():
        real = case.shared.eval()(images(case.sizes[0]))
    assert shapes == {name: tuple(row.shape) for name, row in real.items()}, (
        f"shapes on the meta device differ from those elsewhere: {shapes}"
    )


def check_head_shapes(case: Case) -> None:
    """Outputs have the shape (n out_dim), or the one in `gives`, and are finite, for small and large n."""
    for n in (2, 17):
        y = case.shared(_input(case, n))
        bound: dict[str, Axis] = {"n": n, "d": case.shared.out_dim}
        reason = unify(("n", *parse(case.shared.gives)), tuple(y.shape), bound)
        assert reason is None, (
            f"{n} inputs gave shape {tuple(y.shape)}; "
            f"gives is '{case.shared.gives}' and out_dim {case.shared.out_dim}: {reason}"
        )
        assert y.isfinite().all(), "the output is not finite"


def check_head_on_meta(case: Case) -> None:
    """On torch's meta device, `out_dim` and the output's size are the same as elsewhere."""
    with torch.device("meta"):
        head = case.make()
        shape = tuple(head(_input(case).to("meta")).shape)
    size = shape[1 + parse(head.gives).index("d")]
    assert size == head.out_dim == case.shared.out_dim, (
        f"on the meta device the output has shape {shape} and out_dim is {head.out_dim}; elsewhere out_dim is "
        f"{case.shared.out_dim}"
    )


def check_gradients(case: Case) -> None:
    """A gradient from the features reaches every trained parameter."""
    net = copy.deepcopy(case.shared).train()
    y = _first(net(_input(case)))
    loss = (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    idle = [name for name, value in net.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle, f"no gradient reaches {', '.join(idle[:6])}: do not build unused layers, which break DDP"


def check_autocast(case: Case) -> None:
    """Forward and backward run under bfloat16 autocast, with finite outputs and gradients."""
    net = copy.deepcopy(case.shared).train()
    with torch.autocast("cpu", torch.bfloat16):
        y = _first(net(_input(case)))
    y.float().square().mean().backward()  # type: ignore[no-untyped-call]
    assert y.isfinite().all(), "the output is not finite under bfloat16 autocast"
    bad = [name for name, p in net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert not bad, f"gradients of {', '.join(bad[:6])} are not finite under bfloat16 autocast"


def check_items_are_apart(case: Case) -> None:
    """In eval mode, the output for an item does not depend on the rest of the batch."""
    net, x = case.shared.eval(), _input(case)
    with torch.no_grad():
        together, alone = _first(net(x))[:1], _first(net(x[:1]))
    difference = (together - alone).abs().max().item()
    limit = 1e-3 * max(1.0, alone.abs().max().item())
    assert difference <= limit, f"in eval mode, an item's outputs alone and in a batch differ by {difference:.3g}"


def check_input_untouched(case: Case) -> None:
    """`forward` does not write into its input, which other networks read too."""
    x = _input(case)
    before = x.clone()
    with torch.no_grad():
        copy.deepcopy(case.shared).train()(x)
    assert torch.equal(x, before), "forward writes into its input: use operations that are not in place"


def check_copies(case: Case) -> None:
    """A deep copy (the target network) shares no memory with the original, and gives the same output.

    So does another instance that loads its weights.
    """
    net = case.shared.eval()
    other = case.make(seed=9).eval()
    other.load_state_dict(net.state_dict())
    twin = copy.deepcopy(net)
    addresses = {value.data_ptr() for value in net.parameters()}
    assert not any(value.data_ptr() in addresses for value in twin.parameters()), (
        "a deep copy shares memory with the original"
    )
    x = _input(case)
    with torch.no_grad():
        y = _first(net(x))
        assert torch.equal(_first(twin(x)), y), "a deep copy gives a different output"
        assert torch.equal(_first(other(x)), y), (
            "an instance with the same state_dict gives a different output: register what it lacks as a buffer"
        )


_BOTH = (check_gradients, check_autocast, check_items_are_apart, check_input_untouched, check_copies)
BACKBONE = (check_gives, check_shapes, check_shapes_on_meta, *_BOTH)
HEAD = (check_head_shapes, check_head_on_meta, *_BOTH)
