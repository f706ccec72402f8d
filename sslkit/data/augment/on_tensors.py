"""Augment a batch of views on its device (the executor for GPUs), and normalise views for both executors.

A view's bits must not depend on its batch. So the only operations are those that round each element exactly (IEEE +,
-, *, /, floor, comparisons), one at a time; fused and transcendental ones may differ between their vectorised and
scalar forms. Sums over pixels are sums of integers. The parameters are sent to the device in one piece, so that nothing
waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.data.augment.parameters import GRAY, IDENTITY, JITTER, ORDER, PARAMETERS, kernel, kernel_radius
from sslkit.planning.recipe import View

_FIXED = 2.0**32  # fixed-point unit of sums over pixels
_NEGLIGIBLE = math.sqrt(2 * 25 * math.log(2))  # in sigmas: a Gaussian falls below 2**-25 of its peak
_CHUNK = {"cpu": 2**18}  # elements processed at a time: they fit into a core's cache
_CHUNK_ELSEWHERE = 2**26

Columns = Mapping[str, Sequence[float]]
Operation = Callable[[Tensor, Tensor], None]
"""Edits views (n, 3, h, w), in [0, 1], in place, with values (n, w)."""


@torch.no_grad()
def apply(images: Tensor, params: Tensor, view: View) -> Tensor:
    """Augment and normalise views.

    Args:
        images: Shape (n, 3, h, w), uint8, on any device.
        params: Shape (n, 13), rows from `parameters.draw`, on the CPU.
        view: Supplies the solarize threshold, mean and std.

    Returns:
        Shape (n, 3, h, w), float32, on the device of `images`; not clamped after normalising.
    """
    x = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    rows = params.tolist()
    budget = _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE)
    size = max(1, budget // max(1, x[0].numel())) if len(x) else 1
    mean, std = (_per_channel(values, x.device) for values in (view.mean, view.std))
    for start in range(0, len(x), size):
        part = x[start : start + size].div_(255)
        columns = dict(zip(PARAMETERS, zip(*rows[start : start + size], strict=True), strict=True))
        _run(part, list(_edits(columns, view, kernel_radius(x.shape[-1]))))
        part.sub_(mean).div_(std)
    return x


@torch.no_grad()
def normalise(images: Tensor, view: View) -> Tensor:
    """Normalise views that need no other operation.

    Args:
        images: Shape (..., h, w, 3), uint8, contiguous.
        view: Supplies mean and std.

    Returns:
        Shape (..., 3, h, w), float32, in channels-last memory.
    """
    width = images.shape[-2]
    scale, shift = _flat_rows(view, width, images.device)
    rows = images.flatten(-2).to(torch.float32)  # one row of pixels at a time: broadcasting over three channels is slow
    return rows.sub_(shift).mul_(scale).view(images.shape).movedim(-1, -3)


@lru_cache(maxsize=64)
def _flat_rows(view: View, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a row (3 width): (x / 255 - mean) / std = (x - shift) scale."""
    mean, std = (torch.tensor(values, dtype=torch.float64).repeat(width) for values in (view.mean, view.std))
    return (1 / (255 * std)).to(device, torch.float32), (255 * mean).to(device, torch.float32)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


# ------------------------------------------------------------------------------------ which operation on which view


class Edit(NamedTuple):
    """One operation on some of the views.

    Attributes:
        values: One row of numbers for each of `rows`.
    """

    operation: Operation
    rows: list[int]
    values: list[list[float]]


def _edits(columns: Columns, view: View, radius: int) -> Iterator[Edit]:
    yield from _edit(_flip, columns, _where(columns, "flip"), "flip")
    yield from _jitter(columns)
    yield from _edit(_grayscale, columns, _where(columns, "grayscale"), "grayscale")
    yield from _blurs(columns, radius)
    if rows := _where(columns, "solarize"):
        yield Edit(_solarize, rows, [[view.solarize_threshold]] * len(rows))


def _edit(operation: Operation, columns: Columns, rows: list[int], name: str) -> Iterator[Edit]:
    if rows:
        yield Edit(operation, rows, [[columns[name][row]] for row in rows])


def _where(columns: Columns, name: str) -> list[int]:
    return [row for row, value in enumerate(columns[name]) if value]


def _jitter(columns: Columns) -> Iterator[Edit]:
    """Apply each view's four operations in the order drawn for it.

    Views are independent, so each may wait for the others: hue, by far the most expensive operation, runs once for all
    views, and the others run by their distance from hue in the view's order.
    """
    orders = [
        [JITTER[int(number)] for number in order] for order in zip(*(columns[name] for name in ORDER), strict=True)
    ]
    places = [{name: order.index(name) - order.index("hue") for name in JITTER} for order in orders]
    for place in range(1 - len(JITTER), len(JITTER)):
        for name, operation in _JITTER.items():
            rows = [
                row for row, value in enumerate(columns[name])
                if places[row][name] == place and columns["jitter"][row] and value != IDENTITY[name]
            ]  # fmt: skip
            yield from _edit(operation, columns, rows, name)


def _blurs(columns: Columns, radius: int) -> Iterator[Edit]:
    """Give each blurred view the taps of its kernel, from the centre outwards, padded to the same number."""
    rows = _where(columns, "blur")
    kernels = [kernel(columns["blur"][row], radius, _NEGLIGIBLE) for row in rows]
    longest = max(map(len, kernels), default=1)
    if longest > 1:
        yield Edit(_blur, rows, [taps + [0.0] * (longest - len(taps)) for taps in kernels])


def _run(x: Tensor, edits: Sequence[Edit]) -> None:
    """Apply edits to views (n, 3, h, w) in place; adjacent rows are not copied."""
    numbers = _to_device([float(number) for edit in edits for values in edit.values for number in values], x.device)
    indices = _to_device([row for edit in edits for row in edit.rows], x.device)
    first = begin = 0
    for edit in edits:
        count, width = len(edit.rows), len(edit.values[0])
        values = numbers[first : first + count * width].view(count, width)
        index = indices[begin : begin + count]
        first, begin = first + count * width, begin + count
        if edit.rows[-1] - edit.rows[0] + 1 == count:
            edit.operation(x[edit.rows[0] : edit.rows[-1] + 1], values)
            continue
        part = x[index]
        edit.operation(part, values)
        x[index] = part


def _to_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """Copy numbers to a device, without waiting for it."""
    tensor = torch.tensor(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


# --------------------------------------------------- operations: each edits x (n, 3, h, w), in [0, 1], in place


def _flip(x: Tensor, flips: Tensor) -> None:  # noqa: ARG001
    x.copy_(x.flip(-1))


def _gray(x: Tensor) -> Tensor:
    """Return the luma of x, shape (n, 1, h, w)."""
    red, green, blue = x.chunk(3, dim=1)
    return (red * GRAY[0]).add_(green * GRAY[1]).add_(blue * GRAY[2])


def _blend(x: Tensor, other: Tensor, factors: Tensor) -> None:
    """Compute factor x + (1 - factor) other, clamped to [0, 1]."""
    x.mul_(_each(factors)).add_(other * _each(1 - factors)).clamp_(0, 1)


def _brightness(x: Tensor, factors: Tensor) -> None:
    x.mul_(_each(factors)).clamp_(0, 1)


def _contrast(x: Tensor, factors: Tensor) -> None:
    _blend(x, _mean(_gray(x)), factors)


def _saturation(x: Tensor, factors: Tensor) -> None:
    _blend(x, _gray(x), factors)


def _mean(x: Tensor) -> Tensor:
    """Return each view's mean (n, 1, 1, 1), summed in fixed point, where the order of additions does not matter."""
    total = (x * _FIXED).long().sum(dim=(1, 2, 3), keepdim=True)
    return total.double().div_(_FIXED * x[0].numel()).float()


def _hue(x: Tensor, shifts: Tensor) -> None:
    """Shift hues like RGB -> HSV -> RGB; the largest and smallest channel preserve saturation and value.

    With the hue h in [0, 6), the channels are smallest + chroma * w, where w is 1 up to a distance of 1 from a
    channel's own hue (0, 2, 4), and falls to 0 at a distance of 2.
    """
    red, green, blue = x.chunk(3, dim=1)
    largest, smallest = torch.maximum(red, green).maximum(blue), torch.minimum(red, green).minimum(blue)
    chroma = largest - smallest
    is_red, is_green = largest == red, largest == green
    h = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    h.div_(chroma.clamp_min(1e-12))
    h.add_(torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))).add_(_each(6 * shifts))
    h.sub_((h / 6).floor_().mul_(6))
    x.copy_(h).sub_(_per_channel((3, 2, 4), x.device)).abs_()
    x.mul_(_per_channel((1, -1, -1), x.device)).add_(_per_channel((-1, 2, 2), x.device)).clamp_(0, 1)
    x.mul_(chroma).add_(smallest)


def _grayscale(x: Tensor, flags: Tensor) -> None:  # noqa: ARG001
    x.copy_(_gray(x))


def _solarize(x: Tensor, thresholds: Tensor) -> None:
    x.copy_(torch.where(x >= _each(thresholds), 1 - x, x))


_JITTER: dict[str, Operation] = {
    "brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- blur


def _blur(x: Tensor, taps: Tensor) -> None:
    """Blur with a Gaussian per view: two passes of shifted additions over reflected borders.

    The passes run along the flattened image, where a shift by one row is a shift by the width. Their values at the
    borders are not read.
    """
    reach = taps.shape[1] - 1
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    height, width = padded.shape[-2:]
    flat = _pass(_pass(padded.flatten(1), taps, width), taps, 1)
    x.copy_(flat.as_strided(x.shape, (flat.stride(0), height * width, width, 1)))


def _pass(flat: Tensor, taps: Tensor, stride: int) -> Tensor:
    """Return sum_t taps[|t|] flat[i + t stride] for every i where all terms exist: shape (n, less)."""
    reach = taps.shape[1] - 1
    length = flat.shape[1] - 2 * reach * stride
    total = flat.narrow(1, reach * stride, length) * taps[:, :1]
    pair = torch.empty_like(total)
    for t in range(1, reach + 1):
        before, after = flat.narrow(1, (reach - t) * stride, length), flat.narrow(1, (reach + t) * stride, length)
        torch.add(before, after, out=pair)
        total.add_(pair.mul_(taps[:, t : t + 1]))
    return total
