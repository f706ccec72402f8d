"""Frozen features and the scores of probes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslkit.errors import DataError
from sslkit.planning import recipe_file
from sslkit.planning.probes import plan_probes
from sslkit.planning.recipe import ProbeRecipe, ProbeTable, View
from sslkit.probes import evaluate
from sslkit.probes.crops import collect_crops
from sslkit.probes.evaluate import ProbeEvaluator, frozen, raw_pixels

CPU = torch.device("cpu")


class Net(nn.Module):
    """A network that counts its images."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return {"features": self.drop(self.norm(x)).mean((2, 3))}


def probing_plan(plugins, **probes):
    values = {"source": {"use": "dots", "images": 40}, "backbone": {"use": "tiny"}, "probes": probes, "seed": 0}
    plan, problems = plan_probes(ProbeRecipe.model_validate(values), plugins)
    assert not problems, problems
    return plan


def test_features_are_those_of_eval_mode_and_leave_the_backbone_as_it_was():
    net = Net().train()
    net.norm.eval()  # frozen on its own
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    view = View(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    with frozen(net, CPU, view) as extract:
        features = extract(pixels)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (view.mean, view.std))
    torch.testing.assert_close(features, ((pixels / 255 - mean) / std).mean((2, 3)), atol=1e-4, rtol=1e-4)
    assert (net.training, net.norm.training, net.drop.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_raw_pixels_are_centred_and_small():
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    raw = raw_pixels(pixels)
    assert raw.shape == (5, 3 * 32 * 32)
    assert raw.mean(1).abs().max() < 1e-3
    blocks = pixels.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).flatten(1)
    torch.testing.assert_close(raw, blocks - blocks.mean(1, keepdim=True))


def test_features_go_to_their_side_with_labels_and_images(plugins):
    source = plugins.find("source", "dots").cls(images=600)
    source.open()
    crops = collect_crops(source, ProbeTable(use="nearest", size=8), 0)
    colour = {"colour": lambda pixels: pixels.float().mean((2, 3))}
    train, test = evaluate.extract_features(crops, colour, torch.device("meta"))["colour"]
    for part, side in ((train, ~crops.test), (test, crops.test)):
        assert torch.equal(part.labels, crops.labels[side])
        assert torch.equal(part.images, crops.images[side])
        assert torch.equal(part.features.argmax(1), part.labels)
        assert part.device.type == "meta"  # where probes may compute; the features stay on the CPU
        assert part.features.device.type == "cpu"
    assert len(train) + len(test) == 600


def test_unreadable_images_are_left_out_of_the_features(plugins):
    source = plugins.find("source", "dots").cls(images=60, broken=(7, 8, 9))
    source.open()
    crops = collect_crops(source, ProbeTable(use="nearest", size=8), 0)
    sides = evaluate.extract_features(crops, {"x": lambda pixels: pixels.float().mean((2, 3))}, torch.device("cpu"))[
        "x"
    ]
    seen = torch.cat([part.images for part in sides])
    assert sorted(seen.tolist()) == [image for image in range(60) if image not in (7, 8, 9)]
    for part in sides:
        assert len(part.features) == len(part.labels) == len(part.images)
        assert torch.equal(part.features.argmax(1), part.labels)
    assert len(crops.unreadable) == 3


def test_a_side_without_readable_images_is_refused(plugins):
    source = plugins.find("source", "dots").cls(images=8, broken=tuple(range(8)))
    source.open()
    crops = collect_crops(source, ProbeTable(use="nearest", size=8), 0)
    with pytest.raises(
        DataError,
        match=r"none of the \d images that a probe would train on can be read; the first: 000\d\.png is not an image",
    ):
        evaluate.extract_features(crops, {"x": lambda pixels: pixels.float().mean((2, 3))}, torch.device("cpu"))


def test_probes_of_the_same_crops_share_features_and_one_pass(plugins, monkeypatch):
    evaluator = ProbeEvaluator(
        probing_plan(
            plugins,
            first={"use": "nearest", "size": 16},
            second={"use": "nearest", "size": 16, "unused": 2},
            other={"use": "nearest", "size": 24},
        )
    )
    assert evaluator.crops["first"] is evaluator.crops["second"]
    assert evaluator.crops["first"] is not evaluator.crops["other"]
    net = Net()
    scores = evaluator.measure_with_pixels("net", net, CPU)
    assert net.seen == 40 + 40
    assert list(scores) == ["raw pixels", "net"]
    assert list(scores["net"]) == ["first", "second", "other"]
    assert scores["raw pixels"] == evaluator.measure_pixels()
    assert scores["net"] == evaluator.measure_backbone(net, CPU)
    assert scores["net"]["first"]["top1"] == 1.0


def test_a_test_source_is_opened_and_used(plugins):
    plan = probing_plan(plugins, nearest={"size": 16, "test_source": {"use": "dots", "images": 7}})
    crops = ProbeEvaluator(plan).crops["nearest"]
    assert crops.test.sum() == 7
    assert len(crops) == 47


def test_missing_data_is_refused(plugins):
    plan = probing_plan(plugins, nearest={"test_source": {"use": "dots", "absent": True}})
    with pytest.raises(DataError, match="the dots are missing; run: make dots"):
        ProbeEvaluator(plan)


def test_rates_are_distinguished_from_settings_and_counts():
    assert [evaluate.is_rate(name) for name in ("top1", "map", "chosen_lr", "count_left_out")] == [
        True,
        True,
        False,
        False,
    ]


# --------------------------------------------------------------------------------------------------------- wiring


def problems(plugins, source=True, **probes):
    values = {"backbone": {"use": "tiny", "multiple": 8}, "probes": probes}
    values |= {"source": {"use": "dots"}} if source else {}
    return [
        (".".join(item.key), item.what, item.instead)
        for item in plan_probes(ProbeRecipe.model_validate(values), plugins)[1]
    ]


@pytest.mark.parametrize(
    ("options", "key", "words", "instead"),
    [
        (
            {"crops": "multi-label"}, "crops",
            'gives multi-label samples, and probe "nearest" takes only single-label ones', 'write crops = "objects"',
        ),
        ({"test_source": {"use": "dots"}}, "test_source", "the training source itself", "another split"),
        ({"fit": "centre-crop"}, "fit", "is for whole images", 'crops = "images"'),
        ({"loosen": {}, "crops": "images"}, "loosen", 'crops = "images" takes whole images', 'crops = "objects"'),
        ({"size": 30}, "size", "cannot take crops of 30 x 30 pixels: not of 8", ""),
        ({"test_source": {"use": "dts"}}, "test_source.use", "did you mean 'dots'", ""),
        ({"unused": "x"}, "unused", "unused", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_with_the_reason(plugins, options, key, words, instead):
    (problem,) = problems(plugins, nearest=options)
    assert problem[0] == f"probes.nearest.{key}"
    assert words in problem[1]
    assert instead in problem[2]


def test_loosened_boxes_are_refused_for_sets_of_labels(plugins):
    words = [what for _, what, _ in problems(plugins, nearest={"loosen": {}, "crops": "multi-label"})]
    assert any('crops = "multi-label" takes whole images' in what for what in words)


def test_a_probe_without_any_source_is_refused(plugins):
    (problem,) = problems(plugins, source=False, nearest={})
    assert "the recipe names no source" in problem[1]
    assert not problems(plugins, source=False, nearest={"source": {"use": "dots"}})


def test_a_whole_recipe_is_checked_alike(plugins, recipe_text):
    from sslkit.planning.planner import make_plan

    text = recipe_file.parse(
        recipe_text, "r", "r.toml", ["probes.nearest.crops=multi-label", "augment.scene.0.mean=[0,0,0]"]
    )
    plan, plan_problems = make_plan(recipe_file.check_structure(text)[0], plugins)
    assert "takes only single-label ones" in plan_problems[0].what
    text = recipe_file.parse(recipe_text, "r", "r.toml", ["probes.nearest.size=16", "augment.scene.0.mean=[0,0,0]"])
    plan, plan_problems = make_plan(recipe_file.check_structure(text)[0], plugins)
    assert not plan_problems
    assert plan.probing.view.mean == (0, 0, 0)
    resolved = plan.resolved()["probes"]["nearest"]
    assert (resolved["source"]["use"], resolved["fit"], resolved["unused"]) == ("fake/dots", "stretch", 1)
    assert not {"test_source", "loosen"} & set(resolved)
    text = recipe_file.parse(recipe_text, "r", "r.toml", ["probes.nearest.loosen.shift=0.2"])
    plan, _ = make_plan(recipe_file.check_structure(text)[0], plugins)
    assert plan.resolved()["probes"]["nearest"]["loosen"] == {"shift": 0.2, "scale": [0.9, 1.5]}
