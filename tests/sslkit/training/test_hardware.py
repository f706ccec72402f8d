"""The devices that are fast at bfloat16, and the end of the process group."""

import types

import lightning_fabric
import pytest
import torch

from sslkit.training import hardware
from sslkit.training.hardware import fast_at_bf16
from sslkit.training.options import DeviceOptions


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


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_leave_their_group_before_python_ends(monkeypatch, ranks):
    """A process that ends with gloo's threads at work is aborted now and then, after all its work."""
    at_exit = []
    joined = types.SimpleNamespace(world_size=ranks, device=torch.device("cpu"), launch=lambda: None)
    plan = types.SimpleNamespace(recipe=types.SimpleNamespace(precision="32-true", batch_size=8, accumulate=1))
    monkeypatch.setattr(lightning_fabric, "Fabric", lambda **options: joined)
    monkeypatch.setattr(hardware, "check_launcher", lambda fabric: None)
    monkeypatch.setattr(hardware.atexit, "register", at_exit.append)
    assert hardware.launch(plan, DeviceOptions(accelerator="cpu", devices=str(ranks))) is joined
    assert len(at_exit) == ranks - 1
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    for leave in at_exit or [torch.distributed.destroy_process_group]:
        leave()
    assert not torch.distributed.is_initialized()
    for leave in at_exit:
        leave()
