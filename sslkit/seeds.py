"""Seeds and random numbers as pure functions of names and numbers, independent of what was drawn before."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed for a path of names and numbers, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator for a path of names and numbers."""
    return np.random.Generator(np.random.PCG64(seed_of(*parts)))


def uniforms(count: int, *parts: int | str) -> list[float]:
    """Return numbers in [0, 1) for a path of names and numbers: slices of a hash, at a fifth of a generator's cost."""
    digest = hashlib.shake_128(repr(parts).encode()).digest(8 * count)
    return [(number >> 11) * 2.0**-53 for number in struct.unpack(f"<{count}Q", digest)]


def seed_all(*parts: int | str) -> None:
    """Seed every global generator that an objective may draw from: torch's on all devices, numpy's and Python's."""
    seed = seed_of(*parts)
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # the same for the CPU alone, without what torch prepares for devices that may be initialised later
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()  # queries the driver at each call


@contextmanager
def torch_seeded(*parts: int | str) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore the CPU's after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*parts))
        yield
