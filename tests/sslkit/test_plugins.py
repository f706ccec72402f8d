import types
from importlib.metadata import EntryPoint

import pytest

from sslkit import hookimpl
from sslkit.api import Objective, Source, ViewSampler
from sslkit.errors import PluginError
from sslkit.planning.options import schema, validate
from sslkit.plugins import Owner, Plugins


class Distribution:
    def __init__(self, name, version):
        self.name = name
        self.version = version


class Point:
    """Stands in for an entry point: `load` returns the module or raises."""

    group = "sslkit"

    def __init__(self, name, module, dist="sslkit-thing", version="1.0"):
        self.name, self.module, self.dist = name, module, Distribution(dist, version)

    def load(self):
        if isinstance(self.module, Exception):
            raise self.module
        return self.module


def sampler(name_):
    return type("Made", (ViewSampler,), {"name": name_, "__doc__": "Made up.\n\nMore."})


def offering(**hooks):
    module = types.ModuleType("made")
    for name, value in hooks.items():
        setattr(module, name, hookimpl(_returns(value)))
    return module


def _returns(value):
    def collect():
        if isinstance(value, Exception):
            raise value
        return value

    return collect


def test_first_party_plugins_load_whole(installed):
    assert not installed.broken
    assert {"univip", "images", "proposals", "torchvision", "heads", "probes", "logs"} <= set(installed.owners)
    assert installed.find("objective", "scene-scene").id == "univip/scene-scene"
    assert installed.find("objective", "scene-scene").owner.distribution == "sslkit"


def test_one_that_fails_to_import_is_listed_and_the_others_load():
    plugins = Plugins.load(
        points=[
            Point("bad", ImportError("no module named 'x'")),
            Point("good", offering(sslkit_samplers=[sampler("a")])),
        ]
    )
    assert list(plugins.owners) == ["good"]
    assert [(item.owner.plugin, item.reason) for item in plugins.broken] == [
        ("bad", "ImportError: no module named 'x'")
    ]
    assert plugins.find("sampler", "a").id == "good/a"


def test_one_that_fails_when_asked_is_listed_and_the_others_answer():
    plugins = Plugins.load(
        points=[
            Point("bad", offering(sslkit_samplers=RuntimeError("boom"))),
            Point("good", offering(sslkit_samplers=[sampler("a")])),
        ]
    )
    assert list(plugins.components["sampler"]) == ["good/a"]
    assert "sslkit_samplers() failed: RuntimeError: boom" in plugins.broken[0].reason


def test_two_distributions_with_one_name_are_both_refused_and_named():
    points = [
        Point("toy", offering(), "sslkit-b", "2.0"),
        Point("toy", offering(), "sslkit-a", "1.0"),
        Point("other", offering()),
    ]
    plugins = Plugins.load(points=points)
    assert list(plugins.owners) == ["other"]
    assert len(plugins.broken) == 2
    assert "sslkit-a 1.0 and sslkit-b 2.0 both claim the name 'toy'" in plugins.broken[0].reason


def test_one_distribution_found_twice_counts_once():
    plugins = Plugins.load(points=[Point("toy", offering(), "a"), Point("toy", offering(), "a")])
    assert list(plugins.owners) == ["toy"]
    assert not plugins.broken


def test_a_misspelt_hook_names_its_plugin_and_the_hook_meant():
    plugins = Plugins.load(points=[Point("toy", offering(sslkit_objective=[]))])
    assert plugins.broken[0].owner.plugin == "toy"
    assert (
        "'sslkit_objective', which is not a hook of sslkit: did you mean 'sslkit_objectives'?"
        in plugins.broken[0].reason
    )


def test_a_hook_without_the_decorator_is_named():
    module = types.ModuleType("made")
    module.sslkit_objectives = list
    assert "without the decorator" in Plugins.load(points=[Point("toy", module)]).broken[0].reason


def test_a_hook_with_other_arguments_is_named():
    module = types.ModuleType("made")

    @hookimpl
    def sslkit_run_started(run, extra): ...

    module.sslkit_run_started = sslkit_run_started
    assert "extra" in Plugins.load(points=[Point("toy", module)]).broken[0].reason


def test_short_names_must_be_unambiguous():
    points = [Point(name, offering(sslkit_samplers=[sampler("same")])) for name in ("one", "two")]
    plugins = Plugins.load(points=points)
    with pytest.raises(PluginError, match="several plugins: write one/same or two/same"):
        plugins.find("sampler", "same")
    assert plugins.find("sampler", "two/same").owner.plugin == "two"


def test_unknown_names_get_a_close_match(plugins):
    with pytest.raises(PluginError, match="unknown objective 'alikee': did you mean 'alike'?"):
        plugins.find("objective", "alikee")
    with pytest.raises(PluginError, match="known: dots"):
        plugins.find("source", "zzz")


def test_asking_for_a_broken_plugins_component_gives_its_reason():
    plugins = Plugins.load(points=[Point("toy", ImportError("no torch"))])
    with pytest.raises(PluginError, match=r"'toy', which is broken: ImportError: no torch"):
        plugins.find("sampler", "toy/corners")


@pytest.mark.parametrize("bad", [sampler("Not Kebab"), sampler(None), "no class"])
def test_components_need_a_kebab_case_name(bad):
    plugins = Plugins.load(points=[Point("toy", offering(sslkit_samplers=[bad, sampler("fine")]))])
    assert list(plugins.components["sampler"]) == ["toy/fine"]
    assert len(plugins.broken) == 1


def test_two_components_with_one_id_are_refused():
    plugins = Plugins.load(points=[Point("toy", offering(sslkit_samplers=[sampler("a"), sampler("a")]))])
    assert plugins.components
    assert "it offers two samplers named 'toy/a'" in plugins.broken[0].reason


def test_a_subset_is_loaded_when_asked(monkeypatch):
    points = [Point("one", offering()), Point("two", offering())]
    monkeypatch.setenv("SSLKIT_PLUGINS", "two")
    assert list(Plugins.load(points=points).owners) == ["two"]
    monkeypatch.setenv("SSLKIT_PLUGINS", "")
    assert not Plugins.load(points=points).owners
    with pytest.raises(PluginError, match="no installed plugin is named 'tvo': did you mean 'two'?"):
        Plugins.load(only=["tvo"], points=points)


def test_order_does_not_depend_on_discovery():
    points = [Point(name, offering(sslkit_samplers=[sampler("x")])) for name in ("b", "a", "c")]
    assert list(Plugins.load(points=points).components["sampler"]) == ["a/x", "b/x", "c/x"]


def test_real_entry_points_are_understood():
    point = EntryPoint("torchvision", "sslkit_torchvision", "sslkit")
    assert Plugins.load(points=[point]).owners["torchvision"] == Owner("torchvision", "unknown", "?")


def test_components_remember_their_owner_and_summary(plugins):
    component = plugins.find("objective", "alike")
    assert component.owner == Owner("fake", "sslkit-fake", "1.2")
    assert component.summary.startswith("Mean squared distance")
    assert issubclass(component.cls, Objective)


def source(name_, **attributes):
    return type("Source", (Source,), {"name": name_, **attributes})


def test_a_folder_of_images_is_opened_by_the_source_that_declares_it(installed):
    assert installed.folder_source().id == "images/folder"
    assert installed.default_proposer().id == "proposals/selective-search"


def test_folders_need_exactly_one_source_that_opens_them(plugins):
    with pytest.raises(
        PluginError, match="no installed source declares opens_folder; write a recipe that names a source"
    ):
        plugins.folder_source()
    with pytest.raises(PluginError, match="no installed proposer declares is_default"):
        plugins.default_proposer()
    points = [
        Point(name, offering(sslkit_sources=[source("all", opens_folder=True), source("other")])) for name in ("a", "b")
    ]
    with pytest.raises(PluginError, match=r"several sources declare opens_folder \(a/all, b/all\)"):
        Plugins.load(points=points).folder_source()


def test_the_declared_examples_are_valid_options(installed):
    declaring = [item for kind in ("source", "head") for item in installed.declaring(kind, "example")]
    assert {item.id for item in declaring} == {"images/folder", "heads/mlp"}
    for item in declaring:
        assert not validate(schema(item.cls), item.cls.example, ())[1]
