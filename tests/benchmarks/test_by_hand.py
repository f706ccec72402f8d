"""BYOL by hand and sslkit's are the same method: the same network, optimizer, schedules and, on the same views, steps."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.schedules import LearningRate, target_momentum
from sslkit.training import step

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def small():
    """Settings of a few steps."""
    from learning.by_hand.settings import Settings

    return replace(Settings(), images=64, batch=8, steps=6, warmup=2, points=(0, 3, 6), hidden=32, out=16)


def trainer(settings):
    """Return sslkit's training steps, in float64."""
    from learning.by_hand.ours import recipe_text
    from speed.step import Ours

    ours = Ours(recipe_text(settings))
    ours.setup.network.double()
    return ours


@pytest.fixture
def in_float64(monkeypatch):
    """Views are float64."""
    single = step.to_device

    def double(*arguments):
        return {
            name: item.double() if name.startswith("pixels.") else item for name, item in single(*arguments).items()
        }

    monkeypatch.setattr(step, "to_device", double)


def by_hand_with_weights_of(network, settings):
    """Return the model by hand with the weights of sslkit's networks; parameters come in the same order."""
    from learning.by_hand.byol import Byol

    model = Byol(settings).double()
    parts = (
        (model.backbone, network.online.backbone), (model.projector, network.online.projectors["main"]),
        (model.predictor, network.online.predictors["main"]), (model.target_backbone, network.target.backbone),
        (model.target_projector, network.target.projectors["main"]),
    )  # fmt: skip
    with torch.no_grad():
        for mine, theirs in parts:
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                a.copy_(b)
    return model.train(), parts


@pytest.mark.parametrize("last_norm", [False, True])
def test_on_the_same_views_both_take_the_same_steps(small, last_norm, in_float64):
    """Loss, online and target weights after six steps with warm-up, cosine, weight decay and moving target."""
    from learning.by_hand import byol

    settings = replace(small, last_norm=last_norm)
    ours = trainer(settings)
    model, parts = by_hand_with_weights_of(ours.setup.network, settings)
    optimizer = byol.make_optimizer(model, settings)
    scheduler = byol.make_scheduler(optimizer, settings)
    noise = torch.Generator().manual_seed(1)
    for number in range(settings.steps):
        pixels = torch.randint(256, (8, 2, 32, 32, 3), generator=noise, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
        ours.ready.batch["pixels.scene.online"] = pixels
        views = ours.normalised()["pixels.scene.online"].double()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours.setup.lr(number), rel=1e-6)
        terms = ours()
        loss = byol.take_step(model, optimizer, views[:, 0], views[:, 1], terms["target_momentum"])
        scheduler.step()
        assert loss == pytest.approx(terms["loss"], abs=1e-7)
    for mine, theirs in parts:
        for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)
        for (name, a), b in zip(mine.named_buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)


def test_the_same_parameters_have_weight_decay(small):
    from learning.by_hand import byol

    ours = trainer(small)
    optimizer = byol.make_optimizer(byol.Byol(small), small)
    sizes = [
        {group["weight_decay"]: sorted(p.numel() for p in group["params"]) for group in item.param_groups}
        for item in (ours.setup.optimizer, optimizer)
    ]
    assert sizes[0] == sizes[1]
    assert set(sizes[0]) == {0.0, 0.05}
    assert {group["betas"] for group in ours.setup.optimizer.param_groups} == {optimizer.param_groups[0]["betas"]}


def test_learning_rates_are_equal_at_the_default_sizes():
    from learning.by_hand import byol
    from learning.by_hand.settings import Settings

    settings = Settings()
    optimizer = byol.make_optimizer(torch.nn.Linear(2, 2), settings)
    scheduler = byol.make_scheduler(optimizer, settings)
    ours = LearningRate(settings.lr, settings.steps, settings.warmup, settings.warmup_start)
    for number in range(settings.steps):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours(number), rel=1e-6, abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_lightlys_momentum_reaches_one_a_step_earlier_and_is_else_the_same():
    from lightly.utils.scheduler import cosine_schedule

    momenta = [(cosine_schedule(k, 1000, 0.97, 1.0), target_momentum(k, 1000, 0.97)) for k in range(1000)]
    assert max(abs(a - b) for a, b in momenta) < 3e-5
    assert momenta[-1][0] == 1.0 > momenta[-1][1]


def test_the_recipe_has_the_settings_and_no_others_of_its_own(small, installed):
    from learning.by_hand.ours import recipe_text

    made, problems = recipe_file.check_structure(recipe_file.parse(recipe_text(small), "byol", "byol.toml"))
    assert not problems
    plan, problems = make_plan(made, installed)
    assert not problems
    first, second = plan.views["scene", "online"]
    assert (first.saturation, first.hue, first.blur, first.solarize) == (0.8, 0.2, 0.0, 0.0)
    assert second == first.model_copy(update={"solarize": 0.2})
    assert plan.sampler.options == {"views": 2, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def test_lightlys_views_have_their_sizes_and_probabilities(small):
    from learning.by_hand.byol import make_transform

    np.random.seed(0)
    torch.manual_seed(0)
    transform = make_transform(replace(small, jitter_probability=0.0, grayscale=0.0, flip=0.0, solarize=1.0))
    dark = Image.new("RGB", (64, 48), (10, 10, 10))
    bright = Image.new("RGB", (64, 48), (250, 250, 250))
    for image in (dark, bright):
        first, second = transform(image)
        assert first.shape == second.shape == (3, 32, 32)
        assert torch.equal(first, second) == (image is dark), "only bright pixels are inverted, and only in view two"


def pairs(seed, count=400):
    """Return pairs of views of noise with colours, normalised (n 2 3 8 8)."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0.2, 0.8, (count, 2, 3, 1, 1)) + rng.normal(0, 0.05, (count, 2, 3, 8, 8))
    pixels[: count // 4] = pixels[: count // 4].mean(2, keepdims=True)
    return (pixels - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[:, None, None]


def test_what_is_measured_on_views_is_what_its_name_says():
    from learning.by_hand.views import measure

    views = pairs(0)
    measured = measure(views)
    assert measured["grey, view 1"].mean() == pytest.approx(0.25)
    assert len(measured["chroma, view 2"]) == 300, "of coloured views only"
    twice = measure(np.stack([views[:, 0], views[:, 0]], 1))
    assert twice["correlation of views"] == pytest.approx(np.ones(400), abs=1e-6)
    assert twice["distance between views"].max() == 0
    turned = measure(views.swapaxes(3, 4))
    assert turned["direction, view 1"] == pytest.approx(-measured["direction, view 1"])
    assert turned["sharpness, view 1"] == pytest.approx(measured["sharpness, view 1"])
    lighter = measure(views + 0.1 / 0.225)
    assert lighter["brightness, view 1"] == pytest.approx(measured["brightness, view 1"] + 0.1, abs=0.003)


def test_views_that_differ_in_one_thing_are_found_by_it():
    from learning.by_hand.views import compare

    def found(views):
        return {row["statistic"].split(",")[0] for row in compare(views, pairs(1), 20) if row["p"] < 1e-4}

    assert found(pairs(2)) == set()
    warmer = pairs(2)
    warmer[:, :, 0] += 0.3
    assert "red less green" in found(warmer)
    assert "sharpness" not in found(warmer)
    alike = pairs(2)
    alike[:] = alike[np.arange(400) // 20 * 20]
    assert all(
        row["p over batches"] < 1e-6 for row in compare(alike, pairs(1), 20) if row["statistic"] == "contrast, view 1"
    )


@pytest.mark.slow
def test_views_of_both_sides_are_compared_by_a_command(tmp_path, capsys):
    from learning.by_hand import views

    views.main(["--batches", "4", "--images", "48", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "views.csv").read_text().splitlines()))
    assert {row["statistic"] for row in rows} >= {"brightness, view 2", "chroma, between views", "correlation of views"}
    assert all(float(row["p"]) > 1e-4 for row in rows)
    assert "sharpness, view 1" in capsys.readouterr().out


def test_loose_boxes_keep_within_their_bounds():
    from learning.by_hand.probes import _loosen

    box = np.array([10.0, 20.0, 30.0, 60.0])
    assert _loosen(box, np.array([0.5, 0.5, 1 / 6])) == pytest.approx(box)
    assert _loosen(box, np.array([1.0, 0.0, 1.0])) == pytest.approx([8, 4, 38, 64])


def test_curves_are_compared_as_by_scipy():
    from learning.by_hand import curves
    from scipy.stats import ttest_ind

    ours, by_hand = np.array([30.0, 32.0, 33.0]), np.array([29.0, 30.0, 30.5])
    expected = ttest_ind(ours, by_hand, equal_var=False).confidence_interval(0.95)
    value, low, high = curves.difference(ours, by_hand)
    assert value == pytest.approx(ours.mean() - by_hand.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert curves.difference(ours[:2] * 0 + 4, by_hand[:2] * 0 + 1) == (3, 3, 3)


def test_the_sentence_says_whether_curves_agree():
    from learning.by_hand import curves

    def side(*rows):
        return {seed: {0: dict.fromkeys(("knn", "linear"), 0.1), 5: row} for seed, row in enumerate(rows)}

    near = [{"knn": 0.30, "linear": 0.40}, {"knn": 0.32, "linear": 0.43}, {"knn": 0.31, "linear": 0.41}]
    far = [{"knn": row["knn"] + 0.01, "linear": row["linear"] + 0.2} for row in near]
    same = curves.compare({"by hand": side(*near), "sslkit": side(*near)}, (0, 5))
    assert curves.sentence(same, 3, 1).startswith("The curves agree within the spread of 3 seeds")
    apart = curves.compare({"by hand": side(*near), "sslkit": side(*far)}, (0, 5))
    assert (apart["knn"]["agrees"], apart["linear"]["agrees"]) == (True, False)
    words = curves.sentence(apart, 3, 1)
    assert words.startswith("The curves differ by more than the spread of 3 seeds")
    assert "kNN +1.0 [" in words
    assert "linear +20.0 [" in words
    assert "At 1 of 2 single points" in words


@pytest.mark.slow
def test_the_command_resumes_and_writes_its_results(small, tmp_path, monkeypatch, capsys):
    from learning.by_hand import __main__ as command
    from learning.by_hand import byol

    arguments = [
        "--images",
        "48",
        "--test-images",
        "48",
        "--batch",
        "16",
        "--steps",
        "4",
        "--points",
        "0",
        "4",
        "--warmup",
        "1",
        "--seeds",
        "2",
    ]
    arguments += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    command.main(arguments)
    first = (tmp_path / "out" / "results.json").read_text()
    results = json.loads(first)
    assert set(results["curves"]) == {"by hand", "sslkit"}
    assert results["sentence"] in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "curves.csv").read_text().splitlines()))
    assert [(row["arm"], row["seed"], row["images"]) for row in rows[:3]] == [
        ("by hand", "0", "0"), ("by hand", "0", "64"), ("by hand", "1", "0"),
    ]  # fmt: skip
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    monkeypatch.setattr(byol, "train", None)
    command.main(arguments)
    assert (tmp_path / "out" / "results.json").read_text() == first
    with pytest.raises(SystemExit, match="measured with other settings"):
        command.main([*arguments, "--images", "32"])
