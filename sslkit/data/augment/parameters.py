"""Draw the parameters of a view's augmentation, which two modules apply.

The operations and their order are those of BYOL (arXiv 2006.07733, appendix B) and ORL: flip, colour jitter, greyscale,
Gaussian blur, solarize, normalise. Brightness multiplies, as torchvision's does (DeepMind's adds).

`on_bytes` works on one view at a time, in loader processes, and rounds to whole levels between operations.
`on_tensors` works on a whole batch, in float32, on any device. With either, the bits of a view do not depend on its
batch or on the number of threads.
"""

from __future__ import annotations

import math

from sslkit.planning.recipe import View
from sslkit.seeds import uniforms

PARAMETERS = (
    "flip", "jitter", "brightness", "contrast", "saturation", "hue", "first", "second", "third", "fourth",
    "grayscale", "blur", "solarize",
)  # fmt: skip
"""Columns of a draw: `flip`, `jitter`, `grayscale` and `solarize` are 0 or 1; `brightness`, `contrast` and `saturation`
are factors, `hue` a shift in turns; `first` to `fourth` are indices of operations in `JITTER`; `blur` is sigma in
pixels, 0 for none."""
JITTER = ("brightness", "contrast", "saturation", "hue")
IDENTITY = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
"""Values that make the jitter operations change nothing."""
ORDER = ("first", "second", "third", "fourth")
GRAY = (0.2989, 0.587, 0.114)
"""torchvision's weights of R, G, B."""

_UNIFORMS = 14  # drawn for every view, whether they are used or not


def draw(view: View, *parts: int | str) -> list[float]:
    """Draw the augmentation of one view of one image, as a function of a path of names and numbers.

    Each number has a fixed place in the stream, so that streams stay paired when an option changes.

    Returns:
        Thirteen numbers, the columns of `PARAMETERS`.
    """
    u = uniforms(_UNIFORMS, *parts)
    jitter = u[1] < view.jitter
    amounts = (view.brightness, view.contrast, view.saturation)
    factors = [_between(max(0.0, 1 - x), 1 + x, part) for x, part in zip(amounts, u[2:5], strict=True)]
    factors.append(_between(-view.hue, view.hue, u[5]))
    order = sorted(range(len(JITTER)), key=u[6:10].__getitem__)
    sigma = _between(*view.blur_sigma, u[12]) if u[11] < view.blur else 0.0
    return [
        u[0] < view.flip, jitter, *(factors if jitter else IDENTITY.values()), *order,
        u[10] < view.grayscale, sigma, u[13] < view.solarize,
    ]  # fmt: skip


def _between(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


def kernel_radius(size: int) -> int:
    """Return the radius of the blur's kernel. As in BYOL, it spans a tenth of the side: 11 at 224, 4 at 96 pixels."""
    return max(1, size // 20)


def kernel(sigma: float, radius: int, negligible: float) -> list[float]:
    """Return the taps of a Gaussian from the centre outwards, up to `negligible` sigmas; the full kernel sums to 1."""
    weights = [math.exp(-((t / sigma) ** 2) / 2) for t in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights[: int(negligible * sigma) + 1]]
