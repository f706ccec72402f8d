"""What the plugin offers, and what it costs to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import sslkit_univip
from sslkit.planning.options import schema, validate


def test_offers_three_objectives_and_a_sampler() -> None:
    assert [cls.name for cls in sslkit_univip.sslkit_objectives()] == [
        "scene-scene",
        "scene-instance",
        "instance-instance",
    ]
    assert [cls.name for cls in sslkit_univip.sslkit_samplers()] == ["overlapping-scenes"]


def test_import_is_light() -> None:
    code = "import sys, sslkit_univip; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


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
