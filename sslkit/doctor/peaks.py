"""How fast a device could be: from a table of GPUs, or by a large matrix product."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

import torch

_GPUS: dict[str, tuple[float | None, float | None, float]] = {
    "H200 NVL": (835.5, 417.5, 60.0),
    "H200": (989.4, 494.7, 67.0),
    "H100 NVL": (835.5, 417.5, 60.0),
    "H100 PCIe": (756.0, 378.0, 51.0),
    "H100": (989.4, 494.7, 67.0),
    "A100": (312.0, 156.0, 19.5),
    "A40": (149.7, 74.8, 37.4),
    "A30": (165.0, 82.0, 10.3),
    "A10": (125.0, 62.5, 31.2),
    "L40S": (362.0, 183.0, 91.6),
    "L40": (181.0, 90.5, 90.5),
    "L4": (121.0, 60.0, 30.3),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71.0, 35.6, 35.6),
    "V100 PCIE": (112.0, None, 14.0),
    "V100": (125.0, None, 15.7),
    "T4": (65.0, None, 8.1),
}
"""Name -> dense TFLOP/s as NVIDIA's data sheets have them: 16-bit floats with sums in float32, TF32, float32.

V100 and T4 have no bfloat16 units: theirs is float16's. The SXM form where a sheet has several.
"""
_NO_BFLOAT16 = ("V100", "V100 PCIE", "T4")
_OTHERS = {"Ti", "D", "Laptop", "Max", "SUPER", "Mobile", "MIG"}
"""In the name of a GPU that is another than the one that the table calls so, or a part of it."""
_SIDES = {"cpu": 2048, "cuda": 8192}
_TRIES = 5


@dataclass(frozen=True)
class Peak:
    """Floating-point operations per second of a device.

    Attributes:
        flops: Of one device.
        of: What it is, to be written behind "of".
    """

    flops: float
    of: str


def peak(device: torch.device, precision: str) -> Peak:
    """Return what a device could do at a precision: by NVIDIA's data sheet, else what a matrix product reaches.

    Float32 means TF32 where convolutions may use it, as by torch's default.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if (known := listed(name, precision, torch.backends.cudnn.allow_tf32)) is not None:
            return known
    flops, side = matmul(device, precision), _SIDES.get(device.type, 2048)
    return Peak(flops, f"what a {kind_of(precision)} matrix product of side {side} reaches here")


def listed(name: str, precision: str, tf32: bool) -> Peak | None:
    """Return what the table has for a GPU's name, as torch tells it."""
    words = set(re.split(r"[ -]", name))
    found = [gpu for gpu in _GPUS if set(gpu.split()) <= words]
    if not found or words & _OTHERS:
        return None
    gpu = max(found, key=lambda one: len(one.split()))
    half, tensor, single = _GPUS[gpu]
    if precision == "bf16-mixed" and gpu in _NO_BFLOAT16:
        return None
    which, value = (kind_of(precision), half) if precision != "32-true" else ("float32", single)
    if precision == "32-true" and tf32 and tensor is not None:
        which, value = "TF32", tensor
    return None if value is None else Peak(1e12 * value, f"{value:g} TFLOP/s, the {gpu}'s dense {which} peak")


def kind_of(precision: str) -> str:
    """Name the numbers that a precision computes with."""
    return {"bf16-mixed": "bfloat16", "16-mixed": "float16"}.get(precision, "float32")


def matmul(device: torch.device, precision: str) -> float:
    """Return the operations per second of the fastest of some large matrix products (a multiply-add counts two)."""
    side = _SIDES.get(device.type, 2048)
    a, b = torch.randn(2, side, side, device=device, dtype=getattr(torch, kind_of(precision))).unbind(0)
    best = math.inf
    for _ in range(_TRIES):
        began = _now(device)
        torch.mm(a, b)
        best = min(best, _now(device) - began)
    return 2 * side**3 / best


def _now(device: torch.device) -> float:
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
    return time.perf_counter()
