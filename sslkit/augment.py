"""Photometric augmentation of views: first its parameters are drawn, then it is executed, for a batch at once.

The operations and their order are those of BYOL (arXiv 2006.07733, appendix B) and ORL: flip, colour jitter, greyscale,
Gaussian blur, solarize, normalise. Brightness multiplies, as torchvision's does (DeepMind's adds).

The result of a view has the same bits whatever batch it is in and however many threads there are. So only operations
are used that round each element exactly (IEEE +, -, *, /, floor, comparisons), one at a time, never a fused or
transcendental one, whose vectorised and scalar forms may differ; and what is summed over pixels is summed in integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.recipe import View

PARAMETERS = (
    "flip", "jitter", "brightness", "contrast", "saturation", "hue", "first", "second", "third", "fourth",
    "grayscale", "blur", "solarize",
)  # fmt: skip
"""Columns of a draw: `flip`, `jitter`, `grayscale` and `solarize` are 0 or 1; `brightness`, `contrast` and `saturation`
are factors, `hue` a shift in turns; `first` to `fourth` number the jitter operations in `JITTER`; `blur` is sigma in
pixels, 0 for none."""
JITTER = ("brightness", "contrast", "saturation", "hue")

_ORDER = ("first", "second", "third", "fourth")
_IDENTITY = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
_UNIFORMS = 14  # drawn for every view, whatever is made of them
_GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights of R, G, B
_FIXED = 2.0**32  # fixed-point unit of sums over pixels
_NEGLIGIBLE = math.sqrt(2 * 25 * math.log(2))  # in sigmas: where a Gaussian falls below 2**-25 of its peak
_CHUNK = {"cpu": 2**18}  # elements worked on at a time: what a core's cache holds
_CHUNK_ELSEWHERE = 2**26

Columns = Mapping[str, Sequence[float]]
Operation = Callable[[Tensor, list[float]], None]


# ------------------------------------------------------------------------------------------------------ drawing


def draw(view: View, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw the augmentation of one view of one image.

    Always consumes the same amount of randomness, so that streams stay paired when an option changes.

    Returns:
        Shape (13,), the columns of `PARAMETERS`.
    """
    u = rng.random(_UNIFORMS)
    jitter = u[1] < view.jitter
    amounts = [view.brightness, view.contrast, view.saturation]
    factors = [_between(max(0.0, 1 - x), 1 + x, part) for x, part in zip(amounts, u[2:5], strict=True)]
    factors.append(_between(-view.hue, view.hue, u[5]))
    sigma = _between(*view.blur_sigma, u[12])
    return np.array([
        u[0] < view.flip, jitter, *(factors if jitter else _IDENTITY.values()), *np.argsort(u[6:10]),
        u[10] < view.grayscale, sigma if u[11] < view.blur else 0.0, u[13] < view.solarize,
    ], np.float32)  # fmt: skip


def _between(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


# ---------------------------------------------------------------------------------------------------- executing


@torch.no_grad()
def apply(images: Tensor, params: Tensor, view: View) -> Tensor:
    """Augment and normalise views.

    Args:
        images: Shape (n, 3, h, w), uint8, on any device.
        params: Shape (n, 13), from `draw`; best left on the CPU, where they are read.
        view: Supplies the solarize threshold, mean and std.

    Returns:
        Shape (n, 3, h, w), float32, on the device of `images`; not clamped after normalising.
    """
    x = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    rows = params.tolist()
    budget = _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE)
    size = max(1, budget // max(1, x[0].numel())) if len(x) else 1
    for start in range(0, len(x), size):
        columns = dict(zip(PARAMETERS, zip(*rows[start : start + size], strict=True), strict=True))
        _augment(x[start : start + size], columns, view)
    return x


def _augment(x: Tensor, columns: Columns, view: View) -> None:
    """Augment a chunk (n, 3, h, w) of pixels in [0, 255] in place."""
    x.div_(255)
    _edit(x, _where(columns, "flip"), columns["flip"], _flip)
    _jitter(x, columns)
    _edit(x, _where(columns, "grayscale"), columns["grayscale"], _grayscale)
    _edit(x, _where(columns, "blur"), columns["blur"], _blur)
    threshold = [view.solarize_threshold] * len(x)
    _edit(x, _where(columns, "solarize"), threshold, _solarize)
    x.sub_(_per_channel(view.mean, x)).div_(_per_channel(view.std, x))


def _jitter(x: Tensor, columns: Columns) -> None:
    """Apply each view's four operations in its own order.

    Views are independent, so each may wait for the others: hue, by far the dearest, is done once for all of them, and
    everything else some places before or after it.
    """
    orders = [
        [JITTER[int(number)] for number in order] for order in zip(*(columns[name] for name in _ORDER), strict=True)
    ]
    places = [{name: order.index(name) - order.index("hue") for name in JITTER} for order in orders]
    for place in range(1 - len(JITTER), len(JITTER)):
        for name, operation in _JITTER.items():
            rows = [
                row for row, value in enumerate(columns[name])
                if places[row][name] == place and columns["jitter"][row] and value != _IDENTITY[name]
            ]  # fmt: skip
            _edit(x, rows, columns[name], operation)


def _where(columns: Columns, name: str) -> list[int]:
    return [row for row, value in enumerate(columns[name]) if value]


def _edit(x: Tensor, rows: list[int], values: Sequence[float], operation: Operation) -> None:
    """Apply an operation in place to some rows of `x`, with their values; rows that lie together are not copied."""
    if not rows:
        return
    chosen = [values[row] for row in rows]
    if rows[-1] - rows[0] + 1 == len(rows):
        operation(x[rows[0] : rows[-1] + 1], chosen)
        return
    index = torch.tensor(rows, device=x.device)
    part = x[index]
    operation(part, chosen)
    x[index] = part


def _per_view(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=x.device).view(-1, 1, 1, 1)


def _per_channel(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=x.device).view(3, 1, 1)


# --------------------------------------------------- operations: each edits x (n, 3, h, w), in [0, 1], in place


def _flip(x: Tensor, flips: list[float]) -> None:  # noqa: ARG001
    x.copy_(x.flip(-1))


def _gray(x: Tensor) -> Tensor:
    """Return the luma of x, shape (n, 1, h, w)."""
    red, green, blue = x.chunk(3, dim=1)
    return (red * _GRAY[0]).add_(green * _GRAY[1]).add_(blue * _GRAY[2])


def _blend(x: Tensor, other: Tensor, factors: list[float]) -> None:
    """Mix: factor x + (1 - factor) other, within [0, 1]."""
    rest = _per_view([1 - factor for factor in factors], x)
    x.mul_(_per_view(factors, x)).add_(other * rest).clamp_(0, 1)


def _brightness(x: Tensor, factors: list[float]) -> None:
    x.mul_(_per_view(factors, x)).clamp_(0, 1)


def _contrast(x: Tensor, factors: list[float]) -> None:
    _blend(x, _mean(_gray(x)), factors)


def _saturation(x: Tensor, factors: list[float]) -> None:
    _blend(x, _gray(x), factors)


def _mean(x: Tensor) -> Tensor:
    """Return each view's mean, (n, 1, 1, 1): summed in fixed point, where the order of additions does not matter."""
    total = (x * _FIXED).long().sum(dim=(1, 2, 3), keepdim=True)
    return total.double().div_(_FIXED * x[0].numel()).float()


def _hue(x: Tensor, shifts: list[float]) -> None:
    """Turn hues: as RGB -> HSV -> RGB does, without saturation and value, which the largest and smallest channel hold.

    With the hue h in [0, 6), the channels are smallest + chroma * w, where w is 1 up to a distance of 1 from a
    channel's own hue (0, 2, 4), and falls to 0 at a distance of 2.
    """
    red, green, blue = x.chunk(3, dim=1)
    largest, smallest = torch.maximum(red, green).maximum(blue), torch.minimum(red, green).minimum(blue)
    chroma = largest - smallest
    is_red, is_green = largest == red, largest == green
    h = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    h.div_(chroma.clamp_min(1e-12))
    h.add_(torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))).add_(_per_view([6 * s for s in shifts], x))
    h.sub_((h / 6).floor_().mul_(6))
    x.copy_(h).sub_(_per_channel((3, 2, 4), x)).abs_()
    x.mul_(_per_channel((1, -1, -1), x)).add_(_per_channel((-1, 2, 2), x)).clamp_(0, 1)
    x.mul_(chroma).add_(smallest)


def _grayscale(x: Tensor, flags: list[float]) -> None:  # noqa: ARG001
    x.copy_(_gray(x))


def _solarize(x: Tensor, thresholds: list[float]) -> None:
    x.copy_(torch.where(x >= _per_view(thresholds, x), 1 - x, x))


_JITTER: dict[str, Operation] = {
    "brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- blur


def kernel_radius(size: int) -> int:
    """Return the radius of the blur's kernel, BYOL's: a tenth of the image's side across, 11 at 224, 4 at 96 pixels."""
    return max(1, size // 20)


def _blur(x: Tensor, sigmas: list[float]) -> None:
    """Blur with a Gaussian per view: two passes of shifted additions over reflected borders.

    The passes run along the flattened image, where a shift by a row is a shift by its length: what they compute at the
    borders is not read.
    """
    radius = kernel_radius(x.shape[-1])
    kernels = [_kernel(sigma, radius) for sigma in sigmas]
    reach = max(len(kernel) for kernel in kernels) - 1
    if reach == 0:
        return
    taps = torch.tensor([kernel + [0.0] * (reach + 1 - len(kernel)) for kernel in kernels], device=x.device)
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    height, width = padded.shape[-2:]
    flat = _pass(_pass(padded.flatten(1), taps, width), taps, 1)
    x.copy_(flat.as_strided(x.shape, (flat.stride(0), height * width, width, 1)))


def _pass(flat: Tensor, taps: Tensor, stride: int) -> Tensor:
    """Return sum_t taps[|t|] flat[i + t stride] for every i where all of it exists: shape (n, less)."""
    reach = taps.shape[1] - 1
    length = flat.shape[1] - 2 * reach * stride
    total = flat.narrow(1, reach * stride, length) * taps[:, :1]
    pair = torch.empty_like(total)
    for t in range(1, reach + 1):
        before, after = flat.narrow(1, (reach - t) * stride, length), flat.narrow(1, (reach + t) * stride, length)
        torch.add(before, after, out=pair)
        total.add_(pair.mul_(taps[:, t : t + 1]))
    return total


def _kernel(sigma: float, radius: int) -> list[float]:
    """Return the taps from the centre outwards, as far as float32 can tell; the whole kernel sums to 1."""
    weights = [math.exp(-((t / sigma) ** 2) / 2) for t in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights[: int(_NEGLIGIBLE * sigma) + 1]]
