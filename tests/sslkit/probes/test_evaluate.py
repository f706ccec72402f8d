"""Frozen features and the scores of probes."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from sslkit.api import Labelled, Probe
from sslkit.errors import DataError, PluginError
from sslkit.planning import recipe_file
from sslkit.planning.probes import plan_probes
from sslkit.planning.recipe import ProbeRecipe
from sslkit.plugins import Owner
from sslkit.probes.evaluate import ProbeEvaluator
from sslkit.probes.features import private
from tests.conftest import make_module

CPU = torch.device("cpu")


class Net(nn.Module):
    """A network that counts its images."""

    gives: ClassVar = {"features": "f", "map": "f h w"}
    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        x = self.drop(self.norm(x))
        return {"features": x.mean((2, 3)), "map": x}


def probing_plan(plugins, **probes):
    values = {"source": {"use": "dots", "images": 40}, "backbone": {"use": "tiny"}, "probes": probes, "seed": 0}
    plan, problems = plan_probes(ProbeRecipe.model_validate(values), plugins)
    assert not problems, problems
    return plan


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
    scores = evaluator.measure_references(net, CPU)
    assert net.seen == 40 + 40
    assert list(scores) == ["raw pixels", "random weights", "random weights, calibrated"]
    assert all(list(by_probe) == ["first", "second", "other"] for by_probe in scores.values())
    assert scores["raw pixels"] == evaluator.measure_pixels()
    assert scores["random weights"] == evaluator.measure_backbone(net, CPU)
    assert scores["random weights, calibrated"] == evaluator.measure_backbone(net, CPU, recalibrate=True)
    assert scores["random weights"]["first"]["top1"] == 1.0


def test_each_set_of_crops_has_its_own_statistics_and_the_backbone_stays_as_it_is(plugins, monkeypatch):
    """Compare the features that probes get with a batch norm of the mean and variance of their training crops."""
    features = []
    nearest = plugins.find("probe", "nearest").cls

    def record(self, train, test):
        features.append((train.features, test.features))
        return {"top1": 0.0}

    monkeypatch.setattr(nearest, "evaluate", record)
    tables = {"small": {"size": 8, "loosen": {}}, "large": {"size": 16, "loosen": {}}}  # tight crops have no blue
    evaluator = ProbeEvaluator(probing_plan(plugins, **{name: {"use": "nearest", **t} for name, t in tables.items()}))
    net = Net().train()
    net.norm.running_mean.fill_(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    evaluator.measure_backbone(net, CPU, recalibrate=True)
    assert net.training
    assert net.norm.momentum == 0.1
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.seen == 0
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (evaluator.view.mean, evaluator.view.std))
    assert len(features) == 2
    for name, sides in zip(tables, features, strict=True):
        crops = evaluator.crops[name]
        x = (torch.cat(list(crops.batches())).double() / 255 - mean) / std
        train = x[~crops.test].transpose(0, 1).flatten(1)
        normalised = (x.mean((2, 3)) - train.mean(1)) / (train.var(1) + 1e-5).sqrt()
        for part, expected in zip(sides, (normalised[~crops.test], normalised[crops.test]), strict=True):
            torch.testing.assert_close(part.double(), expected, atol=1e-3, rtol=1e-4)


def test_probes_of_other_pools_share_the_pass_and_get_their_own_features(plugins, monkeypatch):
    given = []
    nearest = plugins.find("probe", "nearest").cls
    evaluate_probe = nearest.evaluate

    def record(self, train, test):
        given.append(train.features.shape[1])
        return evaluate_probe(self, train, test)

    monkeypatch.setattr(nearest, "evaluate", record)
    tables = {"mean": {}, "quarters": {"pool": "grid-2"}, "ninths": {"pool": "grid-3"}, "loose": {"loosen": {}}}
    evaluator = ProbeEvaluator(
        probing_plan(plugins, **{name: {"use": "nearest", "size": 16, **table} for name, table in tables.items()})
    )
    assert evaluator.crops["mean"] is evaluator.crops["quarters"] is evaluator.crops["ninths"]
    assert evaluator.crops["loose"] is not evaluator.crops["mean"]
    net = Net()
    net.norm = nn.Identity()
    scores = evaluator.measure_references(net, CPU)
    assert list(scores) == ["raw pixels", "random weights"], "without batch norm there is nothing to calibrate"
    assert net.seen == 40 + 40
    assert given == [3 * 32 * 32] * 3 + [3, 12, 27] + [3 * 32 * 32, 3]
    assert scores["raw pixels"]["mean"] == scores["raw pixels"]["quarters"]


def test_a_test_source_is_opened_and_used(plugins):
    plan = probing_plan(plugins, nearest={"size": 16, "test_source": {"use": "dots", "images": 7, "first": 40}})
    crops = ProbeEvaluator(plan).crops["nearest"]
    assert crops.test.sum() == 7
    assert len(crops) == 47


def test_missing_data_is_refused(plugins):
    plan = probing_plan(plugins, nearest={"test_source": {"use": "dots", "absent": True}})
    with pytest.raises(DataError, match="the dots are missing; run: make dots"):
        ProbeEvaluator(plan)


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
        ({"pool": "grid-4", "size": 16}, "pool", "has 3 x 3 positions for crops of 16 x 16 pixels", "a larger size"),
        ({"test_source": {"use": "dts"}}, "test_source.use", "did you mean 'dots'", ""),
        ({"unused": "x"}, "unused", "unused", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_with_the_reason(plugins, options, key, words, instead):
    (problem,) = problems(plugins, nearest=options)
    assert problem[0] == f"probes.nearest.{key}"
    assert words in problem[1]
    assert instead in problem[2]


def test_a_grid_needs_a_map(plugins, monkeypatch):
    tiny = plugins.find("backbone", "tiny").cls
    assert not problems(plugins, nearest={"pool": "grid-3", "size": 16})
    monkeypatch.setattr(tiny, "gives", {"features": "f", "tokens": "t f"})
    rows = tiny.forward
    monkeypatch.setattr(
        tiny,
        "forward",
        lambda self, x: {"features": rows(self, x)["features"], "tokens": rows(self, x)["map"].flatten(2).mT},
    )
    (problem,) = problems(plugins, nearest={"pool": "grid-2"})
    assert problem[0] == "probes.nearest.pool"
    assert problem[1] == "pool = \"grid-2\" divides the map, and backbone 'tiny' gives only features, tokens"
    assert not problems(plugins, nearest={"pool": "mean"})


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
    assert not {"test_source", "loosen", "pool"} & set(resolved)
    text = recipe_file.parse(
        recipe_text, "r", "r.toml", ["probes.nearest={size=16, loosen={shift=0.2}, pool='grid-2'}"]
    )
    plan, _ = make_plan(recipe_file.check_structure(text)[0], plugins)
    resolved = plan.resolved()["probes"]["nearest"]
    assert resolved["pool"] == "grid-2"
    assert resolved["loosen"] == {"shift": 0.2, "scale": [0.9, 1.5]}


def test_a_part_has_some_of_the_probes_on_the_first_crops_and_shares_what_they_share(plugins):
    whole = ProbeEvaluator(
        probing_plan(
            plugins,
            first={"use": "nearest", "size": 16},
            second={"use": "nearest", "size": 16, "unused": 2},
            other={"use": "nearest", "size": 24},
        )
    )
    part = whole.part(["first", "second"], 12)
    assert part.crops["first"] is part.crops["second"]
    assert len(part.crops["first"]) == 12
    net = Net()
    assert list(part.measure_backbone(net, CPU)) == ["first", "second"]
    assert net.seen == 12
    assert whole.part(["other"], 40).crops["other"] is whole.crops["other"]
    assert list(whole.crops) == ["first", "second", "other"]
    assert len(whole.crops["first"]) == 40


# -------------------------------------------------------------------------------------- probes beside probes that err


def zero_features(samples):
    samples.features.zero_()


def write_through_numpy(samples):
    samples.features.numpy()[:] = 0


def write_through_a_view(samples):
    samples.features[:3].mul_(-1)


def write_through_data(samples):
    samples.features.data.fill_(torch.nan)


def change_labels(samples):
    samples.labels.zero_()
    samples.images.zero_()


WRITES = [zero_features, write_through_numpy, write_through_a_view, write_through_data, change_labels]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("order", [("careless", "nearest"), ("nearest", "careless")])
def test_what_one_probe_writes_no_other_reads(plugins, write, order):
    class Careless(Probe):
        name = "careless"

        def evaluate(self, train, test):
            write(train)
            write(test)
            return {"top1": 0.5}

    plugins.add(Owner("more", "sslkit-more", "1"), make_module(probes=[Careless]))
    alone = ProbeEvaluator(probing_plan(plugins, nearest={"size": 16})).measure_pixels()["nearest"]
    beside = ProbeEvaluator(probing_plan(plugins, **{name: {"size": 16} for name in order}))
    for _ in range(2):
        assert beside.measure_pixels()["nearest"] == alone


def test_features_are_not_copied_before_they_are_written_to():
    features = torch.randn(1000, 50)
    own = private(Labelled(features, torch.zeros(1000, dtype=torch.int64), ["a"], None, None))
    own.features.mean(0), own.features @ torch.randn(50, 3), own.features[:10]
    assert torch._C._is_cow_tensor(own.features)
    assert torch.equal(own.features, features)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(0), KeyError("x"), DataError("one class")])
def test_a_probe_that_fails_takes_no_others_scores(plugins, error):
    class Fails(Probe):
        name = "fails"

        def evaluate(self, train, test):
            raise error

    plugins.add(Owner("more", "sslkit-more", "1"), make_module(probes=[Fails]))
    plan = probing_plan(plugins, fails={"size": 16}, nearest={"size": 16})
    failed = {}
    scores = ProbeEvaluator(plan, failed=failed.setdefault).measure_references(Net(), CPU)
    assert all(list(by_probe) == ["nearest"] for by_probe in scores.values())
    expected = DataError if isinstance(error, DataError) else PluginError
    assert [(name, type(one)) for name, one in failed.items()] == [("fails", expected)]
    with pytest.raises(expected):
        ProbeEvaluator(plan).measure_pixels()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda rows: {"features": rows["features"][1:], "map": rows["map"]},
            r"as 'features' a tensor of shape \(\d+, 8\)",
        ),
        (lambda rows: {"features": rows["features"][:, :3], "map": rows["map"]}, r"not \(\d+, 8\)"),
        (lambda rows: {"features": rows["features"]}, "`gives` promises 'map'"),
    ],
)
def test_features_that_would_not_fill_their_table_are_refused(plugins, monkeypatch, change, words):
    """The rows of a table are memory that was never written until features fill them."""
    tiny = plugins.find("backbone", "tiny").cls
    evaluator = ProbeEvaluator(probing_plan(plugins, nearest={"size": 16, "pool": "grid-2"}))
    forward = tiny.forward
    monkeypatch.setattr(
        tiny, "forward", lambda self, x: forward(self, x) if self.training else change(forward(self, x))
    )
    with pytest.raises(PluginError, match=rf"^backbone 'fake/tiny' .*{words}"):
        evaluator.measure_backbone(tiny(), CPU)
