"""Send images of a size through a backbone on the meta device, to find sizes that it cannot take."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslkit.api import Backbone
from sslkit.contracts.networks import run_backbone
from sslkit.errors import PluginError, SslkitError
from sslkit.planning.resolver import Resolver
from sslkit.plugins import Component

_REFUSALS = (ValueError, RuntimeError, AssertionError)
"""What backbones raise for a size that they cannot take; anything else is a mistake of theirs."""


def rows_of_size(
    resolver: Resolver, key: tuple[str, ...], component: Component, backbone: Backbone, size: int, images: str
) -> Mapping[str, Tensor] | None:
    """Return the rows of two images of `size` x `size` pixels; None, with a problem, if there are none.

    Args:
        resolver: The resolver that collects problems.
        key: Key path of the table that sets the size.
        component: The backbone's component.
        backbone: The backbone, on the meta device.
        size: Side of the images, pixels.
        images: What the images are, for messages: "views" or "crops".
    """
    if resolver.is_faulty("backbone") or resolver.is_faulty(*key):
        return None
    try:
        with torch.set_grad_enabled(images == "views"):  # crops are only measured, which needs no gradient
            return run_backbone(component, backbone, torch.zeros(2, 3, size, size, device="meta"))
    except SslkitError as error:
        refusal = error.__cause__ if isinstance(error, PluginError) else error
        if isinstance(refusal, (*_REFUSALS, SslkitError)):
            what = f"backbone '{backbone.name}' cannot take {images} of {size} x {size} pixels: {refusal}"
            resolver.fault(key, what)
        elif all(problem.what != str(error) for problem in resolver.problems):  # once for all sizes
            resolver.fault(key, str(error), kind="plugin")
    return None
