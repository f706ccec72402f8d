"""The peak performance of devices."""

from __future__ import annotations

import itertools

import pytest
import torch

from sslkit.doctor import peaks


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "tera", "words"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", True, 989.4, "989.4 TFLOP/s, the H100's dense bfloat16 peak"),
        ("NVIDIA H100 PCIe", "bf16-mixed", True, 756, "H100 PCIe's"),
        ("NVIDIA H200", "32-true", True, 494.7, "dense TF32 peak"),
        ("NVIDIA A100-SXM4-80GB", "32-true", False, 19.5, "dense float32 peak"),
        ("NVIDIA A100-SXM4-40GB", "16-mixed", True, 312, "dense float16 peak"),
        ("NVIDIA GeForce RTX 4090", "bf16-mixed", True, 165.2, "RTX 4090's"),
        ("Tesla V100-SXM2-16GB", "16-mixed", True, 125, "V100's"),
        ("Tesla V100-PCIE-16GB", "32-true", True, 14, "V100 PCIE's dense float32"),
        ("NVIDIA L4", "bf16-mixed", True, 121, "L4's"),
        ("NVIDIA L40S", "bf16-mixed", True, 362, "L40S's"),
        ("NVIDIA A10", "32-true", True, 62.5, "A10's"),
    ],
)
def test_known_gpus_are_listed(name, precision, tf32, tera, words):
    peak = peaks.listed(name, precision, tf32)
    assert peak.flops == pytest.approx(1e12 * tera)
    assert words in peak.of


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA A10G", "bf16-mixed"), ("NVIDIA GeForce RTX 3090 Ti", "bf16-mixed"), ("Tesla V100-SXM2", "bf16-mixed"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "32-true"), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16-mixed"),
        ("AMD Instinct MI300X", "bf16-mixed"),
    ],
)  # fmt: skip
def test_similar_names_are_not_confused_with_them(name, precision):
    assert peaks.listed(name, precision, True) is None


def test_a_cpu_is_measured(monkeypatch):
    monkeypatch.setitem(peaks._SIDES, "cpu", 64)
    ticks = itertools.accumulate(itertools.cycle([1.0, 0.5]))
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: next(ticks))
    peak = peaks.peak(torch.device("cpu"), "bf16-mixed")
    assert peak.flops == 2 * 64**3 / 0.5
    assert peak.of == "what a bfloat16 matrix product of side 64 reaches here"
    monkeypatch.undo()
    monkeypatch.setitem(peaks._SIDES, "cpu", 256)
    assert peaks.matmul(torch.device("cpu"), "32-true") > 1e8
