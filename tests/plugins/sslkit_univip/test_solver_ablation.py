"""The solvers of instance-instance side by side, on the quickstart."""

from __future__ import annotations

from pathlib import Path

import pytest

import sslkit
from sslkit import targets
from sslkit.ablation.arms import RecipeEditor
from sslkit.plugins import Plugins

KEY = "objectives.instance-instance.solver"
SMALL = {
    "source.images": 16,
    "batch_size": 8,
    "proposals": {"use": "random-boxes", "min_side": 16},
    "backbone": {"use": "resnet18", "width": 8},
    "heads.main.projector": {"use": "mlp", "hidden": 16, "out": 16},
    "heads.main.predictor": {"use": "mlp", "hidden": 16},
    "optimizer.warmup_epochs": 0,
    "precision": "32-true",
    "probes": {},
}


@pytest.fixture(autouse=True)
def _few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load only the plugins that the recipe needs, because every run is a separate process."""
    monkeypatch.setenv("SSLKIT_PLUGINS", "heads,images,logs,probes,proposals,torchvision,univip")


@pytest.mark.slow
def test_solvers_are_arms_of_an_ablation_of_the_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = sslkit.load("quickstart", set={**SMALL, "steps": 1})
    values = "sinkhorn,exact,unbalanced"
    results = sslkit.ablate(recipe, vary=f"{KEY}={values}", runs=tmp_path, workers=0, accelerator="cpu")
    assert [arm.name for arm in results.arms] == ["full", *(f"{KEY}={s}" for s in ("exact", "unbalanced"))]
    assert [trial.state for arm in results.arms for trial in arm.trials] == ["finished"] * 3
    assert f"{KEY}=sinkhorn" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("objectives.instance-instance.mass", ("0.5", "1.0")), ("objectives.instance-instance.entropic", ("true",)),
        ("objectives.instance-instance.marginal_penalty", ("0.1", "1.0")), ("probes.knn.pool", ("mean", "grid-2")),
        ("probes.knn.limit", ("10",)), ("probes.knn.test_source.split", ("val",)), ("probes.linear.steps", ("5",)),
        ("optimizer.clip_grad_norm", ("1.0",)), ("target.momentum_end", ("0.99",)), ("augment.scene.0.blur", ("0.1",)),
        ("forward.sync_batch_norm", ("true",)), ("heads.main.predictor.layers", ("3",)), ("probes.knn.every", ("2",)),
    ],
)  # fmt: skip
def test_options_that_are_absent_by_default_can_be_varied(key: str, values: tuple[str, ...]) -> None:
    plugins, faults = Plugins.load(), list[str]()
    plan, file = targets.load("quickstart", [], plugins)
    editor = RecipeEditor(file, plan, plugins, faults)
    assert [arm.name for arm in editor.vary(f"{key}={','.join(values)}")] == [f"{key}={value}" for value in values]
    assert not faults
    assert not editor.vary(f"{key}x={values[0]}")
    assert f"the recipe has no key '{key}x': did you mean '{key}'?" in faults[0]


def test_an_arm_whose_options_do_not_suit_its_solver_is_refused_before_training(tmp_path: Path) -> None:
    recipe = sslkit.load("quickstart", set={**SMALL, "objectives.instance-instance.epsilon": 0.2})
    with pytest.raises(sslkit.errors.SslkitError, match=r"epsilon = 0\.2 weighs an entropy, and solver = \"exact\""):
        sslkit.ablate(recipe, vary=f"{KEY}=sinkhorn,exact", runs=tmp_path, workers=0, accelerator="cpu")
    assert not list(tmp_path.iterdir())
