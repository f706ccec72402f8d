"""What the plugin offers, its public names, and what it costs to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch

import sslkit_univip
from sslkit.foreign.signatures import schema
from sslkit.planning.options import validate


def test_offers_three_objectives_and_a_sampler() -> None:
    assert [cls.name for cls in sslkit_univip.sslkit_objectives()] == [
        "scene-scene",
        "scene-instance",
        "instance-instance",
    ]
    assert [cls.name for cls in sslkit_univip.sslkit_samplers()] == ["overlapping-scenes"]


def test_import_is_light() -> None:
    """Also when pluggy registers it, which reads every attribute that `dir` lists."""
    code = (
        "import sys, pluggy, sslkit_univip; pluggy.PluginManager('sslkit').register(sslkit_univip);"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_public_names_are_the_components_and_the_solver() -> None:
    public = {name: getattr(sslkit_univip, name) for name in sslkit_univip.__all__}
    components = [*sslkit_univip.sslkit_objectives(), *sslkit_univip.sslkit_samplers()]
    assert {cls.__name__: cls for cls in components} == {k: v for k, v in public.items() if k != "sinkhorn"}
    assert callable(public["sinkhorn"])


@pytest.mark.parametrize("first", ["", "import sslkit_univip.transport;"])
def test_public_names_work_in_a_fresh_interpreter(first: str) -> None:
    """Twice, because importing a module sets an attribute of the package."""
    names = ", ".join(sslkit_univip.__all__)
    imports = f"from sslkit_univip import {names};"
    code = f"{first}{imports}{imports}import sslkit_univip; print([type(x).__name__ for x in ({names})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(
        ["ABCMeta" if name[0].isupper() else "function" for name in sslkit_univip.__all__]
    )


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'sslkit_univip' has no attribute 'scene_scene'"):
        _ = sslkit_univip.scene_scene


def test_public_objectives_are_plain_modules() -> None:
    """Used as in a notebook: without a plan, a recipe or a backbone."""
    p, z = torch.randn(4, 2, 8, requires_grad=True), torch.randn(4, 2, 8)
    loss = sslkit_univip.SceneScene({"v": 2, "d": 8})(p, z)
    loss.backward()
    assert p.grad is not None
    rows = torch.full((4, 3), 1 / 3)
    plan = sslkit_univip.sinkhorn(torch.rand(4, 3, 3), rows, rows, epsilon=0.1, iterations=50)
    torch.testing.assert_close(plan.sum(-2), rows)


def test_every_option_has_a_default_and_a_line_in_the_docstring() -> None:
    for cls in [*sslkit_univip.sslkit_objectives(), *sslkit_univip.sslkit_samplers()]:
        options, problems = validate(schema(cls), {}, ())
        assert problems == []
        assert options
        assert all(f"\n    {name}: " in inspect.cleandoc(cls.__doc__ or "") for name in options), cls


def test_options_are_checked() -> None:
    objective, sampler = sslkit_univip.sslkit_objectives()[2], sslkit_univip.sslkit_samplers()[0]
    wrong = {"epsilon": 0.0, "iterations": 0, "pair_loss": "cosine", "floor": -1.0, "last_update": "both"}
    assert len(validate(schema(objective), wrong, ())[1]) == len(wrong)
    wrong = {"instances": 0, "attempts": 0, "scale": [0.0, 1.5], "choose": "last", "max_iou": 1.5, "max_aspect": 0.5}
    assert len(validate(schema(sampler), wrong, ())[1]) >= len(wrong)
