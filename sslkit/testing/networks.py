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
    """Make normalised images (n 3 size size)."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size)).to(device)


def _first(returned: Any) -> Tensor:
    tensor = returned["features"] if isinstance(returned, Mapping) else returned
    assert isinstance(tensor, Tensor)
    return tensor


def _input(case: Case, n: int = 4) -> Tensor:
    """Make what the case's network takes."""
    if case.kind == "backbone":
        return images(case.sizes[0], n)
    d = case.wiring[0]["d"]
    shape = {"map": (n, d, SIZES["h"], SIZES["w"]), "tokens": (n, SIZES["t"], d)}.get(case.cls.takes, (n, d))
    return torch.randn(shape, generator=torch.Generator().manual_seed(n))


def check_gives(case: Case) -> None:
    """`gives` names well-formed rows, `features` among them, and `dim` is known."""
    gives = case.shared.gives
    assert gives.get("features") == "f", f"gives = {dict(gives)} must hold 'features': 'f'"
    for row, axes in gives.items():
        assert row in ("features", "map", "tokens"), f"gives names '{row}'; rows are features, map and tokens"
        try:
            parse(axes)
        except ValueError as error:
            raise AssertionError(str(error)) from None
    assert isinstance(case.shared.dim, int) and case.shared.dim > 0, f"dim = {case.shared.dim!r}"  # noqa: PT018


def check_shapes(case: Case) -> None:
    """What comes out agrees with `gives` and `dim`, for images of several sizes."""
    net = case.shared.eval()
    for size in case.sizes:
        with torch.no_grad():
            _agree(net, net(images(size)), f"for images of {size} x {size}")


def _agree(net: Any, rows: Any, where: str) -> None:
    assert isinstance(rows, Mapping), f"forward returned {type(rows).__name__}, not a mapping of rows"
    assert set(rows) == set(net.gives), f"gives names {sorted(net.gives)}, forward returned {sorted(rows)}"
    for name, row in rows.items():
        bound: dict[str, Axis] = {"n": 2, "f": net.dim}
        reason = unify(("n", *parse(net.gives[name])), tuple(row.shape), bound)
        assert reason is None, f"'{name}' has shape {tuple(row.shape)} {where}, dim is {net.dim}: {reason}"
        assert row.isfinite().all(), f"'{name}' is not finite {where}"


def check_shapes_on_meta(case: Case) -> None:
    """On torch's meta device it is as large as elsewhere, and takes images; `sslkit check` rehearses that."""
    with torch.device("meta"):
        net = case.make()
    assert net.dim == case.shared.dim, f"dim is {net.dim} on the meta device, else {case.shared.dim}"
    shapes = {name: tuple(row.shape) for name, row in net.train()(images(case.sizes[0], device="meta")).items()}
    with torch.no_grad():
        real = case.shared.eval()(images(case.sizes[0]))
    assert shapes == {name: tuple(row.shape) for name, row in real.items()}, f"shapes on the meta device: {shapes}"


def check_head_shapes(case: Case) -> None:
    """It maps n inputs to (n out_dim), or as `gives` says, finite, for small and large n."""
    for n in (2, 17):
        y = case.shared(_input(case, n))
        bound: dict[str, Axis] = {"n": n, "d": case.shared.out_dim}
        reason = unify(("n", *parse(case.shared.gives)), tuple(y.shape), bound)
        assert reason is None, (
            f"{n} inputs gave shape {tuple(y.shape)}; "
            f"gives is '{case.shared.gives}', out_dim {case.shared.out_dim}: {reason}"
        )
        assert y.isfinite().all(), "the output is not finite"


def check_head_on_meta(case: Case) -> None:
    """On torch's meta device it has the same size, and takes inputs."""
    with torch.device("meta"):
        head = case.make()
        shape = tuple(head(_input(case).to("meta")).shape)
    size = shape[1 + parse(head.gives).index("d")]
    assert size == head.out_dim == case.shared.out_dim, f"shape {shape}, out_dim {head.out_dim}"


def check_gradients(case: Case) -> None:
    """A gradient reaches every trained parameter, from the features alone."""
    net = copy.deepcopy(case.shared).train()
    y = _first(net(_input(case)))
    loss = (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    idle = [name for name, value in net.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle, f"no gradient reaches {', '.join(idle[:6])}: do not build what is not used, it would break DDP"


def check_autocast(case: Case) -> None:
    """It runs in bfloat16 autocast, forward and backward, and stays finite."""
    net = copy.deepcopy(case.shared).train()
    with torch.autocast("cpu", torch.bfloat16):
        y = _first(net(_input(case)))
    y.float().square().mean().backward()  # type: ignore[no-untyped-call]
    assert y.isfinite().all(), "the output is not finite in bfloat16 autocast"
    bad = [name for name, p in net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert not bad, f"gradients of {', '.join(bad[:6])} are not finite in bfloat16 autocast"


def check_items_are_apart(case: Case) -> None:
    """In eval mode, what an item gives does not depend on its neighbours in the batch."""
    net, x = case.shared.eval(), _input(case)
    with torch.no_grad():
        together, alone = _first(net(x))[:1], _first(net(x[:1]))
    far = (together - alone).abs().max().item()
    limit = 1e-3 * max(1.0, alone.abs().max().item())
    assert far <= limit, f"an item gives something else alone than in a batch, in eval mode (by {far:.3g})"


def check_input_untouched(case: Case) -> None:
    """It does not write into its input: other networks see the same pixels."""
    x = _input(case)
    before = x.clone()
    with torch.no_grad():
        copy.deepcopy(case.shared).train()(x)
    assert torch.equal(x, before), "forward writes into its input"


def check_copies(case: Case) -> None:
    """A deep copy (the target network) and another that loads its weights give the same, and share no memory."""
    net = case.shared.eval()
    other = case.make(seed=9).eval()
    other.load_state_dict(net.state_dict())
    twin = copy.deepcopy(net)
    own = {value.data_ptr() for value in net.parameters()}
    assert not any(value.data_ptr() in own for value in twin.parameters()), "a deep copy shares memory with the model"
    x = _input(case)
    with torch.no_grad():
        y = _first(net(x))
        assert torch.equal(_first(twin(x)), y), "a deep copy gives something else"
        assert torch.equal(_first(other(x)), y), "weights from state_dict give something else: what is not in it?"


_BOTH = (check_gradients, check_autocast, check_items_are_apart, check_input_untouched, check_copies)
BACKBONE = (check_gives, check_shapes, check_shapes_on_meta, *_BOTH)
HEAD = (check_head_shapes, check_head_on_meta, *_BOTH)
