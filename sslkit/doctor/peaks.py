"""Find the peak performance of a device: from a table of GPUs, or by timing a large matrix product."""

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
"""Name -> dense TFLOP/s from NVIDIA's data sheets: 16-bit floats with float32 accumulation, TF32, float32.

V100 and T4 have no bfloat16 units; their 16-bit numbers hold for float16. The SXM version if a sheet lists several.
"""
_NO_BFLOAT16 = ("V100", "V100 PCIE", "T4")
_OTHER_MODELS = {"Ti", "D", "Laptop", "Max", "SUPER", "Mobile", "MIG"}
"""Words in the names of other GPUs than those in the table, or of a part of one."""
_SIDES = {"cpu": 2048, "cuda": 8192}
_TRIES = 5


@dataclass(frozen=True)
class Peak:
    """Floating-point operations per second of a device.

    Attributes:
        flops: Peak of one device.
        of: Description of the peak, to follow the word "of".
    """

    flops: float
    of: str


def peak(device: torch.device, precision: str) -> Peak:
    """Return the peak of a device at a precision: from NVIDIA's data sheet, or else measured by a matrix product.

    Float32 means TF32 if convolutions may use it, as by torch's default.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if (known := listed(name, precision, torch.backends.cudnn.allow_tf32)) is not None:
            return known
    flops, side = matmul(device, precision), _SIDES.get(device.type, 2048)
    return Peak(flops, f"what a {dtype_name(precision)} matrix product of side {side} reaches here")


def listed(name: str, precision: str, tf32: bool) -> Peak | None:
    """Return the table's peak for a GPU's name as torch reports it, or None if the table does not have it."""
    words = set(re.split(r"[ -]", name))
    matches = [gpu for gpu in _GPUS if set(gpu.split()) <= words]
    if not matches or words & _OTHER_MODELS:
        return None
    gpu = max(matches, key=lambda name: len(name.split()))
    half, tensor, single = _GPUS[gpu]
    if precision == "bf16-mixed" and gpu in _NO_BFLOAT16:
        return None
    which, value = (dtype_name(precision), half) if precision != "32-true" else ("float32", single)
    if precision == "32-true" and tf32 and tensor is not None:
        which, value = "TF32", tensor
    return None if value is None else Peak(1e12 * value, f"{value:g} TFLOP/s, the {gpu}'s dense {which} peak")


def dtype_name(precision: str) -> str:
    """Return the data type that a precision computes with."""
    return {"bf16-mixed": "bfloat16", "16-mixed": "float16"}.get(precision, "float32")


def matmul(device: torch.device, precision: str) -> float:
    """Return the operations per second of the fastest of several matrix products; a multiply-add counts as two."""
    side = _SIDES.get(device.type, 2048)
    a, b = torch.randn(2, side, side, device=device, dtype=getattr(torch, dtype_name(precision))).unbind(0)
    best = math.inf
    for _ in range(_TRIES):
        started = _now(device)
        torch.mm(a, b)
        best = min(best, _now(device) - started)
    return 2 * side**3 / best


def _now(device: torch.device) -> float:
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
    return time.perf_counter()
