"""The devices that are fast at bfloat16."""

import pytest
import torch

from sslkit.training.hardware import fast_at_bf16


@pytest.mark.parametrize(
    ("avx", "amx", "is_fast"), [(False, False, False), (True, False, True), (False, True, True), (True, True, True)]
)
def test_cpus_are_fast_with_bfloat16_products(monkeypatch, avx, amx, is_fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert fast_at_bf16("cpu") is is_fast


@pytest.mark.parametrize(("capability", "is_fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_are_fast_from_ampere_on(monkeypatch, capability, is_fast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert fast_at_bf16("auto") is is_fast
    assert fast_at_bf16("cuda") is is_fast
    assert not fast_at_bf16("mps")
