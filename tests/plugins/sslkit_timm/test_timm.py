"""timm models by name."""

from __future__ import annotations

import sys

import pytest
import timm
import torch

from sslkit_timm.backbone import Timm

MODELS = {
    "test_resnet": ("features", "map"),
    "test_vit": ("features", "tokens"),
    "test_convnext": ("features", "map"),
}


@pytest.mark.parametrize(("model", "rows"), MODELS.items())
def test_agrees_with_timm(model, rows):
    ours = Timm(model=model).eval()
    theirs = timm.create_model(model, num_classes=0).eval()
    theirs.load_state_dict(ours.net.state_dict())
    x = torch.randn(2, *theirs.default_cfg["input_size"])
    outputs = ours(x)
    torch.testing.assert_close(outputs["features"], theirs(x))
    assert tuple(outputs) == tuple(ours.gives) == rows
    assert outputs["features"].shape == (2, ours.dim)


def test_maps_with_channels_last_are_permuted():
    with torch.device("meta"):
        net = Timm(model="swin_tiny_patch4_window7_224")
        outputs = net(torch.zeros(2, 3, 224, 224))
    assert outputs["map"].shape == (2, net.dim, 7, 7)


def test_other_sizes_of_view():
    net = Timm(model="test_vit", image_size=64)
    assert net(torch.randn(1, 3, 64, 64))["tokens"].shape[1] == 16
    assert net(torch.randn(1, 3, 96, 96))["tokens"].shape[1] == 36


@pytest.mark.parametrize("model", MODELS)
def test_meta(model):
    with torch.device("meta"):
        net = Timm(model=model, drop_path=0.1)
    assert all(parameter.is_meta for parameter in net.parameters())


def test_models_that_cannot_be_built_on_meta(monkeypatch):
    """Older versions of timm compute rates with torch.linspace(...).item() while a model is built."""
    create = timm.create_model

    def computing(model, **options):
        torch.linspace(0, 0.1, 3)[1].item()
        return create(model, **options)

    monkeypatch.setattr(timm, "create_model", computing)
    with torch.device("meta"):
        net = Timm(model="test_vit")
    assert all(parameter.is_meta for parameter in net.parameters())
    assert not any(parameter.is_meta for parameter in Timm(model="test_vit").parameters())


def test_errors_name_the_problem(monkeypatch):
    with pytest.raises(ValueError, match="timm has no model 'resnet10': did you mean resnet10t"):
        Timm(model="resnet10")
    with pytest.raises(ValueError, match="'test_resnet' does not take these options"):
        Timm(model="test_resnet", image_size=64)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'timm is not installed: pip install "sslkit\[timm\]"'):
        Timm(model="test_resnet")
