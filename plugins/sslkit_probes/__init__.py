"""Probes: kNN and linear classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Probe


@hookimpl
def sslkit_probes() -> Sequence[type[Probe]]:
    """Return the kNN and the linear probe."""
    from sslkit_probes.knn import KNN
    from sslkit_probes.linear import Linear

    return [KNN, Linear]
