"""Every wrong component is told with its plugin, its version and its own line, and ends the command with code 4."""

from __future__ import annotations

import re

import pytest
import torch

from sslkit.__main__ import main
from sslkit.errors import PluginError
from sslkit.planning.plan import ConfiguredComponent
from sslkit.planning.probes import plan_probes
from sslkit.planning.recipe import ProbeRecipe
from sslkit.planning.standalone import build_objective
from sslkit.plugins import Owner, Plugins
from sslkit.probes.evaluate import ProbeEvaluator
from tests.conftest import RECIPE, make_module
from tests.sslkit.contracts import zoo, zoo_gradients

BY = "'zoo/wrong' of plugin 'zoo' (sslkit-zoo 3.1)"
PLACE = re.compile(rf"({re.escape(zoo.FILE)}|{re.escape(zoo_gradients.FILE)}), (line \d+, )?in ")
"""A file and line in it; attributes of classes that `type` made have none."""
TABLES = {
    "source": "source.use=zoo/wrong", "proposer": "proposals={use='zoo/wrong'}", "sampler": "sampler.use=zoo/wrong",
    "backbone": "backbone.use=zoo/wrong", "head": "heads.main.projector={use='zoo/wrong'}",
    "objective": "objectives={wrong={use='zoo/wrong'}}", "probe": "probes={p={use='zoo/wrong', size=16}}",
}  # fmt: skip


@pytest.fixture
def with_zoo(plugins):
    """Return a function that adds a plugin of one wrong component, beside a right one of each kind."""

    def with_zoo(kind, cls):
        offered = {zoo.PLURAL[name]: [zoo.Choosing] if name == "sampler" else [] for name in zoo.RIGHT}
        offered["proposers"] = [zoo.Proposing]
        offered[zoo.PLURAL[kind]] = [*offered[zoo.PLURAL[kind]], cls]
        plugins.add(Owner("zoo", "sslkit-zoo", "3.1"), make_module(**offered))
        return plugins

    return with_zoo


@pytest.fixture
def train(monkeypatch, tmp_path, capsys):
    """Return a function that runs the command in this process; it returns the exit code and what stderr says."""

    def train(plugins, *sets, command=("run", "--workers", "0", "--accelerator", "cpu")):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Plugins, "load", classmethod(lambda cls, *given, **named: plugins))
        (tmp_path / "dots.toml").write_text(RECIPE.replace("epochs = 2\nbatch_size = 4", "steps = 1\nbatch_size = 2"))
        options = [part for item in sets for part in ("--set", item)]
        arm = ["--arm", f"arm-{len(list(tmp_path.rglob('*-s3')))}"] if command[0] == "run" else []
        code = main([command[0], "dots.toml", *command[1:], *arm, *options])
        return code, capsys.readouterr().err

    return train


def ids(cases):
    return [f"{kind}-{method}-{number}" for number, (kind, method, *_) in enumerate(cases)]


ZOO = [*zoo.ZOO, *zoo_gradients.CASES]


@pytest.mark.parametrize(("kind", "method", "value", "words"), ZOO, ids=ids(ZOO))
def test_a_wrong_component_ends_the_run_at_its_first_step(with_zoo, train, tmp_path, kind, method, value, words):
    sets = [TABLES[kind], *(["sampler.use=zoo/choosing"] if kind == "proposer" else [])]
    code, told = train(with_zoo(kind, zoo.wrong(kind, method, value)), *sets)
    assert code == 4, told
    assert f"{kind} {BY}" in told
    assert words in told
    assert PLACE.search(told), told
    assert told.count(BY) == 1, "each problem once"
    assert "Traceback" not in told
    assert not list(tmp_path.rglob("metrics.jsonl")), "no step was taken"


@pytest.mark.parametrize(
    "command", [("views", "--out", "sheet.png"), ("doctor", "--accelerator", "cpu", "--workers", "0", "--steps", "1")]
)
@pytest.mark.parametrize(
    ("kind", "method", "value"),
    [
        ("source", "read", zoo.gives("a.png")), ("sampler", "sample", zoo.sample(zoo.BOXES[:1])),
        ("proposer", "__getitem__", zoo.proposal(500, 500, 600, 600)), ("source", "key", zoo.fails),
    ],
)  # fmt: skip
def test_other_commands_end_with_the_same_code(with_zoo, train, command, kind, method, value):
    sets = [TABLES[kind], *(["sampler.use=zoo/choosing"] if kind == "proposer" else [])]
    code, told = train(with_zoo(kind, zoo.wrong(kind, method, value)), *sets, command=command)
    assert code == 4, told
    assert f"{kind} {BY}" in told
    assert "Traceback" not in told


@pytest.fixture
def measure(with_zoo):
    """Return a function that measures raw pixels with a probe on a source."""

    def measure(kind, method, value, **table):
        plugins = with_zoo(kind, zoo.wrong(kind, method, value))
        use = {"source": "dots", "probe": "nearest", "backbone": "tiny", kind: "zoo/wrong"}
        values = {"source": {"use": use["source"], "images": 24}, "backbone": {"use": use["backbone"]}}
        values["probes"] = {"p": {"use": use["probe"], "size": 16, "test_share": 0.5, **table}}
        plan, problems = plan_probes(ProbeRecipe.model_validate({**values, "seed": 0}), plugins)
        assert not problems, problems
        return ProbeEvaluator(plan).measure_pixels()

    return measure


@pytest.mark.parametrize(("method", "value", "words"), zoo.LABELS)
def test_wrong_labels_are_told(measure, method, value, words):
    with pytest.raises(PluginError) as caught:
        measure("source", method, value, crops="objects" if method == "objects" else "images")
    told(caught.value, "source", words)


@pytest.mark.parametrize(("method", "value", "words"), zoo.PROBES)
def test_wrong_scores_are_told(measure, method, value, words):
    with pytest.raises(PluginError) as caught:
        measure("probe", method, value)
    told(caught.value, "probe", words)


def told(error, kind, words):
    assert error.exit_code == 4
    assert str(error).startswith(f"{kind} {BY}")
    assert all(part in str(error) for part in words.split("{}"))
    assert PLACE.search(str(error))


@pytest.mark.parametrize("kind", zoo.RIGHT)
def test_a_class_that_extends_no_contract_is_refused_and_its_neighbours_are_not(with_zoo, train, kind):
    plugins = with_zoo(kind, zoo.NoBase)
    assert {"zoo/choosing", "fake/pair"} <= set(plugins.components["sampler"])
    [broken] = plugins.broken
    assert f"its {kind} 'wrong' is no " in broken.reason
    assert "NoBase(sslkit.api." in broken.reason
    code, told = train(plugins, TABLES[kind])
    assert code == 4
    assert "NoBase" in told
    assert train(plugins, "sampler.use=zoo/choosing", "proposals={use='zoo/proposing'}")[0] == 0


@pytest.mark.parametrize(("kind", "method"), [("sampler", "sample"), ("source", "read"), ("objective", "forward")])
def test_a_right_component_of_the_same_plugin_trains(with_zoo, train, kind, method):
    plugins = with_zoo(kind, zoo.wrong(kind, method, zoo.gives(None)))
    assert train(plugins, TABLES[kind])[0] == 4
    assert train(plugins, "sampler.use=zoo/choosing", "proposals={use='zoo/proposing'}")[0] == 0


def test_a_source_that_misses_a_method_is_told(with_zoo):
    incomplete = type("Incomplete", (zoo.Dots,), {"name": "wrong", "__module__": zoo.__name__})
    incomplete.__abstractmethods__ = frozenset({"read"})
    component = with_zoo("source", incomplete).find("source", "zoo/wrong")
    with pytest.raises(PluginError, match="failed: TypeError: Can't instantiate abstract class Incomplete"):
        ConfiguredComponent(component, {}).make()


def test_a_component_built_alone_is_told_as_well(with_zoo):
    plugins = with_zoo("objective", zoo.wrong("objective", "__init__", zoo.fails))
    with pytest.raises(PluginError) as caught:
        build_objective("zoo/wrong", {"v": 2, "d": 6}, {}, plugins)
    told(caught.value, "objective", "failed: KeyError: 'absent'")


@pytest.mark.parametrize("cls", [zoo_gradients.Own, zoo_gradients.OwnOfTarget, zoo_gradients.OwnOfCopy])
def test_an_objective_that_trains_only_itself_is_told(with_zoo, train, cls):
    plugins = with_zoo("objective", cls)
    code, told = train(plugins, TABLES["objective"])
    assert code == 4, told
    assert (
        f"no gradient reaches the backbone, so that it is not trained\n    objective {BY}: {zoo_gradients.FILE}" in told
    )
    beside = "objectives={alike={}, wrong={use='zoo/wrong'}}"
    assert train(plugins, beside)[0] == 0, "beside another one, it may"


def test_a_head_that_cuts_the_gradient_is_told_where_no_other_trains_the_backbone(with_zoo, train):
    code, told = train(with_zoo("head", zoo_gradients.Cutting), TABLES["head"])
    assert code == 4, told
    assert "do not detach the rows of an objective or the input of a head" in told


def test_a_graph_that_is_kept_is_told_at_the_second_step(with_zoo, train):
    code, told = train(with_zoo("objective", zoo_gradients.Bank), TABLES["objective"], "steps=2")
    assert code == 4, told
    assert (
        f"graph a second time (or directly access saved tensors after they have already been freed).\n    objective {BY}"
        in told
    )


@pytest.mark.parametrize("value", [zoo_gradients.without_grad(zoo.Tiny), zoo_gradients.inference])
def test_a_backbone_that_is_only_measured_needs_no_gradient(measure, value):
    assert measure("backbone", "forward", value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "failed: MemoryError\n"), (torch.OutOfMemoryError(), "goes on: OutOfMemoryError\n"),
        (MemoryError("too large"), "failed: MemoryError: too large\n"), (KeyError(), "failed: KeyError\n"),
    ],
)  # fmt: skip
def test_a_probe_that_fails_without_a_word_is_told_with_its_type(with_zoo, train, error, words):
    def fail(*given):
        raise error

    code, told = train(
        with_zoo("probe", zoo.wrong("probe", "evaluate", fail)),
        "probes={p={use='zoo/wrong', size=16, test_share=0.5}}",
        "source.images=24",
    )
    assert code == 0, told
    assert "warning: probe 'p' failed, and the run goes on: " in told
    assert words in told
