"""Checks of objectives, on random embeddings."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from sslkit.api import Terms
from sslkit.testing.case import Case, unchanged_random_state
from sslkit.testing.fakes import fake_dims, fake_rows, split
from sslkit.testing.fakes import rows_of as all_rows

Rows = dict[str, Tensor]


def rows_of(case: Case, batch: int = 6, dtype: torch.dtype = torch.float32) -> Rows:
    """Make fake rows for the objective of a case."""
    return fake_rows(case.cls, case.dims, batch, dtype)


def terms_of(returned: Any) -> Terms:
    """Convert what `forward` returned to `Terms`, and assert that it holds scalars."""
    if isinstance(returned, Tensor):
        returned = Terms({"loss": returned})
    elif isinstance(returned, Mapping):
        returned = Terms(returned)
    assert isinstance(returned, Terms), (
        f"forward returned {type(returned).__name__}: return a scalar tensor, a dict of them, or sslkit.api.Terms"
    )
    assert returned.terms, "forward returned no terms: return at least one"
    for name, value in [*returned.terms.items(), *returned.monitors.items()]:
        assert isinstance(value, Tensor), f"'{name}' is a {type(value).__name__}: return a scalar tensor"
        assert value.ndim == 0, f"'{name}' has shape {tuple(value.shape)}: reduce it to a scalar"
    return returned


def loss_of(module: Any, rows: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms."""
    return torch.stack([value.to(torch.float64) for value in terms_of(module(**rows)).terms.values()]).sum()


def online(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows that require gradients."""
    return {name: row for name, row in rows.items() if row.requires_grad}


def check_requires(case: Case) -> None:
    """`requires` and `optional` hold valid rows, whose sizes agree."""
    assert case.cls.requires, "requires is empty: name the rows that forward reads"
    twice = sorted(set(case.cls.requires) & set(case.cls.optional))
    assert not twice, f"{', '.join(twice)} are both in requires and in optional: remove them from one"
    for requirement in all_rows(case.cls).values():
        try:
            split(requirement)
        except ValueError as error:
            raise AssertionError(str(error)) from None
    try:
        rows_of(case)
    except ValueError as error:
        raise AssertionError(str(error)) from None


def check_forward_parameters(case: Case) -> None:
    """The parameters of `forward` are the keys of `requires` and `optional`, without defaults."""
    parameters = list(inspect.signature(case.cls.forward).parameters.values())[1:]
    names, rows = sorted(p.name for p in parameters), sorted(all_rows(case.cls))
    assert names == rows, f"forward takes {names}, but requires names {rows}"
    defaults = [p.name for p in parameters if p.default is not p.empty]
    assert not defaults, f"forward has defaults for {', '.join(defaults)}: remove them, the core always passes these"


def check_finite_scalars(case: Case) -> None:
    """Terms and monitors are finite scalars in float32; a term depends on the online rows, if there are any."""
    rows = rows_of(case)
    result = terms_of(case.make()(**rows))
    for name, value in [*result.terms.items(), *result.monitors.items()]:
        assert value.isfinite(), f"'{name}' is {value.item()} for normally distributed embeddings"
    if online(rows):
        assert any(value.requires_grad for value in result.terms.values()), "no term depends on the online rows"


def check_gradients(case: Case) -> None:
    """A gradient reaches an online row and every trained parameter of the objective."""
    module, rows = case.make(), rows_of(case)
    loss_of(module, rows).backward()  # type: ignore[no-untyped-call]
    reached = [name for name, row in online(rows).items() if row.grad is not None and row.grad.any()]
    assert reached or not online(rows), f"no gradient reaches any of {', '.join(online(rows))}"
    idle = [name for name, value in module.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle, f"no gradient reaches the parameters {', '.join(idle)}, which breaks DDP: use or remove them"


def check_target_gets_no_gradient(case: Case) -> None:
    """Target rows, which arrive detached, stay so: no gradient flows into the target network."""
    rows = rows_of(case)
    targets = {name for name, text in all_rows(case.cls).items() if text.startswith("target.")}
    if online(rows):
        loss_of(case.make(), rows).backward()  # type: ignore[no-untyped-call]
    attached = [name for name in sorted(targets) if rows[name].requires_grad or rows[name].grad is not None]
    assert not attached, f"forward turns on gradients of the target rows {', '.join(attached)}: leave them detached"


def check_inputs_untouched(case: Case) -> None:
    """`forward` changes no row in place, because other objectives read the same tensors."""
    rows = {name: row.detach() for name, row in rows_of(case).items()}
    before = {name: row.clone() for name, row in rows.items()}
    case.make()(**rows)
    changed = [name for name, row in rows.items() if not torch.equal(row, before[name])]
    assert not changed, f"forward changes {', '.join(changed)} in place: work on a copy"


def check_order_of_batch(case: Case) -> None:
    """The loss does not depend on the order of the images in the batch."""
    rows = rows_of(case)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    plain = loss_of(case.make(), rows)
    shuffled = loss_of(case.make(), {name: row[order] for name, row in rows.items()})
    difference = (plain - shuffled).abs().item()
    assert difference <= 1e-4 * max(1.0, plain.abs().item()), (
        f"the loss changes by {difference:.3g} when the images of the batch are in another order"
    )


def check_deterministic(case: Case) -> None:
    """The same rows and the same global seed give the same loss and gradients."""
    results = [_seeded(case) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), (
        "two equal calls give different results: compute from the rows alone"
    )


def check_random_state(case: Case) -> None:
    """The objective neither draws from the global random generators nor seeds them."""
    module, rows = case.make(), rows_of(case)
    with unchanged_random_state("the objective"):
        loss_of(module, rows)
        module.after_step(1, 0.5)


def _seeded(case: Case) -> list[Tensor]:
    module, rows = case.make(), rows_of(case)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = loss_of(module, rows)
        inputs = list(online(rows).values())
        gradients = torch.autograd.grad(loss, inputs, materialize_grads=True) if inputs else ()
    return [loss.detach(), *gradients]


def _check_finite(case: Case, change: Callable[[Tensor], Tensor], condition: str) -> None:
    rows = {name: _changed(row, change) for name, row in rows_of(case).items()}
    loss = loss_of(case.make(), rows)
    assert loss.isfinite(), f"the loss is {loss.item()} when {condition}"
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    bad = [name for name, row in online(rows).items() if row.grad is not None and not row.grad.isfinite().all()]
    assert not bad, f"the gradient of {', '.join(bad)} is not finite when {condition}"


def _changed(row: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the changed embedding; return boxes, indices and the like unchanged."""
    if row.ndim < 3 or not row.is_floating_point():
        return row
    return change(row.detach()).clone().requires_grad_(row.requires_grad)


def check_zero_embeddings(case: Case) -> None:
    """Loss and gradient are finite when all embeddings are zero."""
    _check_finite(case, torch.zeros_like, "all embeddings are zero")


def check_duplicate_embeddings(case: Case) -> None:
    """Loss and gradient are finite when all embeddings are the same."""
    _check_finite(case, lambda row: row[:1, :1].expand_as(row), "all embeddings are the same")


def check_large_embeddings(case: Case) -> None:
    """Loss and gradient are finite when embeddings are a thousand times larger."""
    _check_finite(case, lambda row: 1e3 * row, "embeddings are a thousand times larger")


def check_small_embeddings(case: Case) -> None:
    """Loss and gradient are finite when embeddings are almost zero."""
    _check_finite(case, lambda row: 1e-20 * row, "embeddings are scaled by 1e-20")


def check_gradcheck(case: Case) -> None:
    """Gradients agree with finite differences in float64."""
    module, rows = case.make().double(), rows_of(case, batch=3, dtype=torch.float64)
    names = list(online(rows))
    if not names:
        return

    def loss(*values: Tensor) -> Tensor:
        return loss_of(copy.deepcopy(module), {**rows, **dict(zip(names, values, strict=True))})

    try:
        torch.autograd.gradcheck(loss, [rows[name] for name in names], fast_mode=True, atol=1e-4)
    except (RuntimeError, GradcheckError) as error:
        first = str(error).strip().partition("\n")[0]
        raise AssertionError(
            f"gradients differ from finite differences in float64: {first} "
            "(is something cast to float32, detached on purpose, or not differentiable?)"
        ) from None


def check_state(case: Case) -> None:
    """The loss depends on no state outside `state_dict`, so that a resumed run continues unchanged."""
    first, second = case.make(seed=1), case.make(seed=2)
    rows = rows_of(case)
    loss_of(first, rows)
    first.after_step(1, 0.5)
    second.load_state_dict(first.state_dict())
    a, b = (loss_of(module, rows) for module in (first, second))
    assert torch.equal(a, b), (
        f"the loss is {a.item():g}, but {b.item():g} after a round trip through state_dict: register state as buffers"
    )


def check_runs_on_meta(case: Case) -> None:
    """Forward and backward run on torch's meta device, where the cost of a recipe is counted."""
    with torch.device("meta"):
        module = case.make()
    rows = {name: row.detach().to("meta").requires_grad_(row.requires_grad) for name, row in rows_of(case).items()}
    try:
        result = terms_of(module(**rows))
        loss = torch.stack(list(result.terms.values())).sum()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    except (NotImplementedError, RuntimeError) as error:
        raise AssertionError(
            f"it does not run on the meta device: {error} (does it read values, as in .item() or `if tensor`?)"
        ) from None


def check_optional_rows(case: Case) -> None:
    """The loss is finite without the optional rows, which are then None."""
    if not case.cls.optional:
        return
    required = type("Required", (), {"requires": case.cls.requires, "optional": {}})
    dims = {name: size for name, size in case.wiring[0].items() if name in fake_dims(required, case.dims)}
    with torch.random.fork_rng(devices=[]):
        module = case.cls(dims, **case.options)
    loss = loss_of(module, {**dict.fromkeys(case.cls.optional), **fake_rows(required, case.dims)})  # type: ignore[dict-item]
    assert loss.isfinite(), f"the loss is {loss.item()} without {', '.join(case.cls.optional)}"


def check_couples_batch(case: Case) -> None:
    """If `couples_batch` is False, the loss of a batch is the mean over its halves."""
    if case.cls.couples_batch:
        return
    rows = rows_of(case)
    halves = [{name: row[part] for name, row in rows.items()} for part in (slice(0, 3), slice(3, 6))]
    loss, mean = loss_of(case.make(), rows), torch.stack([loss_of(case.make(), half) for half in halves]).mean()
    difference = (loss - mean).abs().item()
    assert difference <= 1e-4 * max(1.0, loss.abs().item()), (
        f"the loss of a batch differs by {difference:.3g} from the mean over its halves, so that it depends on the "
        "number of ranks: write couples_batch = True, and every rank gets the whole batch"
    )


def check_single_views(case: Case) -> None:
    """With one view per group, the loss is finite, or the constructor raises ValueError."""
    single = {axis: 1 for axis in ("v", "k") if axis in case.wiring[0]}
    try:
        module = case.make(**single)
    except ValueError:
        return
    loss = loss_of(module, fake_rows(case.cls, {**case.dims, **single}))
    assert loss.isfinite(), (
        f"the loss is {loss.item()} with {single}: raise ValueError in __init__ if this is not possible"
    )


OBJECTIVE = (
    check_requires,
    check_forward_parameters,
    check_finite_scalars,
    check_gradients,
    check_target_gets_no_gradient,
    check_inputs_untouched,
    check_order_of_batch,
    check_deterministic,
    check_random_state,
    check_zero_embeddings,
    check_duplicate_embeddings,
    check_large_embeddings,
    check_small_embeddings,
    check_gradcheck,
    check_state,
    check_runs_on_meta,
    check_optional_rows,
    check_couples_batch,
    check_single_views,
)
