import ctypes
import os
import signal
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sslkit import hookimpl
from sslkit.api import Objective, Probe, Source, ViewSampler
from sslkit.cli import make_app
from sslkit.contracts.blame import blamed
from sslkit.errors import PluginError
from sslkit.foreign import entries
from sslkit.foreign.signatures import schema
from sslkit.planning.options import validate
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
        if isinstance(self.module, BaseException):
            raise self.module
        return self.module() if isinstance(self.module, types.FunctionType) else self.module


def sampler(name_):
    return type("Made", (ViewSampler,), {"name": name_, "__doc__": "Made up.\n\nMore."})


def offering(**hooks):
    module = types.ModuleType("made")
    for name, value in hooks.items():
        setattr(module, name, hookimpl(_returns(value)))
    return module


def _returns(value):
    def collect():
        if isinstance(value, BaseException):
            raise value
        return value

    return collect


class StopError(BaseException):
    """An exception of a plugin's own that is no `Exception`."""


ENDINGS = [SystemExit(), SystemExit(0), SystemExit("bye"), StopError("x")]
"""What ends a program where code raises it, or passes every `except Exception`."""


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


async def coroutine(step): ...


def generator(step):
    yield


async def both(step):
    yield


def default(run, step=3): ...


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (generator, {"hookwrapper": True}, "is a wrapper of hooks"), (generator, {"wrapper": True}, "is a wrapper of hooks"),
        (coroutine, {}, "is async def, which would never run"), (generator, {}, "is a function with yield"),
        (both, {}, "is async def with yield"), (default, {}, "has a default for step"),
    ],
)  # fmt: skip
def test_a_hook_that_would_never_run_is_told(function, options, words):
    module = types.ModuleType("made")
    module.sslkit_step_finished = hookimpl(**options)(function) if options else hookimpl(function)
    plugins = Plugins.load(points=[Point("toy", module), Point("good", offering())])
    assert list(plugins.owners) == ["good"]
    assert f"its sslkit_step_finished() {words}" in plugins.broken[0].reason


def test_hooks_may_have_defaults_of_their_own_and_be_called_first():
    module = types.ModuleType("made")
    module.sslkit_step_finished = hookimpl(tryfirst=True)(lambda step, every=10: None)
    assert not Plugins.load(points=[Point("toy", module)]).broken


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
    with pytest.raises(
        PluginError, match=r"in plugin 'toy' \(sslkit-thing 1.0\), which is broken:\nImportError: no torch"
    ):
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


# ---------------------------------------------------------------------------------------------- isolation and names


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
def test_a_plugin_that_ends_the_program_at_import_is_listed_and_the_others_load(ending):
    good = offering(sslkit_samplers=[sampler("a")])
    plugins = Plugins.load(points=[Point("bad", ending), Point("good", good)])
    assert list(plugins.owners) == ["good"]
    [broken] = plugins.broken
    assert broken.reason.startswith(type(ending).__name__)


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
@pytest.mark.parametrize("hook", ["sslkit_samplers", "sslkit_recipes"])
def test_a_plugin_that_ends_the_program_in_a_hook_is_listed_once(ending, hook):
    plugins = Plugins.load(points=[Point("bad", offering(**{hook: ending}))])
    for _ in range(2):
        assert not plugins.components["sampler"]
        assert not plugins.recipes()
    [broken] = plugins.broken
    assert broken.reason.startswith(f"{hook}() failed: {type(ending).__name__}")


def test_a_plugin_that_ends_the_program_in_its_commands_is_listed():
    module = types.ModuleType("made")

    @hookimpl
    def sslkit_commands(app):
        raise SystemExit(0)

    module.sslkit_commands = sslkit_commands
    plugins = Plugins.load(points=[Point("bad", module)])
    plugins.commands(lambda name: name, lambda name, app: None)
    assert "sslkit_commands() failed: SystemExit: 0" in plugins.broken[0].reason


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
def test_a_component_that_ends_the_program_is_named(plugins, ending):
    component = plugins.find("objective", "alike")
    message = f"'fake/alike' of plugin 'fake'.* failed: {type(ending).__name__}"
    with pytest.raises(PluginError, match=message), blamed(component):
        raise ending


@pytest.fixture
def heard():
    """Hear Ctrl-C as a terminal's program does; one that is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_passes_through_code_of_plugins(plugins):
    with pytest.raises(KeyboardInterrupt):
        Plugins.load(points=[Point("slow", lambda: signal.raise_signal(signal.SIGINT))])
    with pytest.raises(KeyboardInterrupt), blamed(plugins.find("objective", "alike")):
        _caught_and_raised_again()


def _caught_and_raised_again():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise


def test_the_end_of_a_generator_is_no_failure(plugins):
    def images():
        with blamed(plugins.find("source", "dots")):
            yield 1
            yield 2

    opened = images()
    assert next(opened) == 1
    opened.close()


def test_what_a_plugin_prints_is_no_result(capfd):
    """At import and in hooks, from Python and from C."""

    def load():
        sys.stdout.write("from an import\n")
        sys.__stdout__.write("around the redirection\n")
        ctypes.CDLL(None).puts(b"from C")
        os.write(1, b"to the descriptor\n")
        return offering(sslkit_samplers=[sampler("a")])

    sys.stdout.write("before\n")
    plugins = Plugins.load(points=[Point("loud", load)])
    assert plugins.find("sampler", "a")
    sys.stdout.write("after\n")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert all(text in err for text in ("from an import", "from C", "to the descriptor"))


@pytest.mark.parametrize("name", entries.RESERVED)
def test_names_of_commands_are_reserved(name):
    plugins = Plugins.load(points=[Point(name, offering(sslkit_samplers=[sampler("a")])), Point("good", offering())])
    assert list(plugins.owners) == ["good"]
    assert f"'{name}' is a command of sslkit" in plugins.broken[0].reason
    assert f"'my-{name}'" in plugins.broken[0].reason


def test_every_command_of_the_core_is_reserved():
    app = make_app(Plugins.load(points=[]))
    commands = {item.name for item in [*app.registered_commands, *app.registered_groups]}
    assert commands == set(entries.RESERVED)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("My_Plugin", "my-plugin"), ("toy.plugin", "toy-plugin"), ("toy plugin", "toy-plugin"), ("ToyPlugin", "toy-plugin"),
        ("toy/plugin", "toy-plugin"), ("toy-", "toy"), ("-toy", "toy"), ("toy--plugin", "toy-plugin"), ("Über", "ber"), ("\n", "my-plugin"),
    ],
)  # fmt: skip
def test_names_of_plugins_are_in_kebab_case(name, instead):
    plugins = Plugins.load(points=[Point(name, offering())])
    assert not plugins.owners
    assert f"is not in kebab-case: write '{instead}' in [project.entry-points.sslkit]" in plugins.broken[0].reason


def test_a_plugin_that_offers_a_name_of_ours_changes_no_run():
    ours = Point("own", offering(sslkit_samplers=[sampler("same"), sampler("ours")]), "sslkit")
    theirs = Point("a", offering(sslkit_samplers=[sampler("same")]))
    plugins = Plugins.load(points=[ours, theirs])
    assert plugins.find("sampler", "same").id == "own/same"
    assert plugins.find("sampler", "a/same").id == "a/same"
    assert [item.id for item in plugins.offers("sampler", "same")] == ["a/same", "own/same"]


def test_a_plugin_that_opens_folders_changes_no_run(installed):
    points = [Point("own", offering(sslkit_sources=[source("all", opens_folder=True)]), "sslkit")]
    points += [Point("a", offering(sslkit_sources=[source("all", opens_folder=True)]))]
    assert Plugins.load(points=points).folder_source().id == "own/all"


@pytest.mark.parametrize("bad", [3, None, "nothing.toml", Path("nothing.toml"), Path(), b"x.toml"])
def test_one_bad_recipe_hides_no_other(tmp_path, bad):
    good = tmp_path / "good.toml"
    good.write_text("summary = 'fine'")
    plugins = Plugins.load(points=[Point("toy", offering(sslkit_recipes=[bad, good])), Point("b", offering())])
    assert plugins.recipes() == {"toy/good": good}
    assert plugins.recipes() == {"toy/good": good}
    [broken] = plugins.broken
    assert "sslkit_recipes() returned" in broken.reason


def test_two_recipes_of_one_name_are_told(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.toml").touch()
    paths = [tmp_path / "a" / "same.toml", tmp_path / "a" / "same.toml", tmp_path / "b" / "same.toml"]
    plugins = Plugins.load(points=[Point("toy", offering(sslkit_recipes=paths))])
    assert plugins.recipes() == {"toy/same": paths[0]}
    assert [item.reason for item in plugins.broken] == ["sslkit_recipes() returned two files for one name, toy/same"]


@pytest.mark.parametrize("bad", ["x" * 300 + ".toml", "a\0b.toml", "/".join(["x" * 200] * 30), Path("y" * 400)])
def test_a_path_that_no_file_can_have_is_that_paths_fault(tmp_path, bad):
    good = tmp_path / "good.toml"
    good.touch()
    plugins = Plugins.load(points=[Point("toy", offering(sslkit_recipes=[bad, good]))])
    assert plugins.recipes() == {"toy/good": good}
    [broken] = plugins.broken
    assert len(broken.reason) < 250


def probe(name_, constructor):
    return type("Made", (Probe,), {"name": name_, "__init__": constructor, "evaluate": lambda self, train, test: {}})


def unknown(self, *, centre: "Nope"): ...  # noqa: F821


def taken(self, *, size: int = 3, every: int = 4, fine: int = 1): ...


def untyped(self, *, count=3): ...


@pytest.mark.parametrize(
    ("constructor", "words"),
    [
        (unknown, ["option 'centre' cannot be read"]),
        (taken, ["option 'size'", "option 'every'"]),
        (untyped, ["'count'"]),
    ],
)
def test_one_component_with_wrong_options_is_broken_and_the_others_go_on(constructor, words):
    hooks = {"sslkit_probes": [probe("odd", constructor), probe("fine", lambda self: None)]}
    plugins = Plugins.load(points=[Point("toy", offering(**hooks))])
    assert list(plugins.components["probe"]) == ["toy/fine"]
    assert len(plugins.broken) == len(words)
    for name in ("odd", "toy/odd"):
        with pytest.raises(PluginError) as caught:
            plugins.find("probe", name)
        message = str(caught.value)
        assert f"probe '{name}' is in plugin 'toy' (sslkit-thing 1.0), which is broken:" in message
        assert all(word in message for word in words)
        assert f"test_plugins.py, line {constructor.__code__.co_firstlineno}, in {constructor.__name__}" in message
    with pytest.raises(PluginError, match="unknown source 'odd'"):
        plugins.find("source", "odd")


class Unprintable:
    def __repr__(self):
        raise ValueError("no words")


class Meta(type(Probe)):
    def __getattribute__(cls, name):
        if name == "name":
            raise KeyError("no name")
        return super().__getattribute__(name)


@pytest.mark.parametrize("bad", [Unprintable(), Meta("Hidden", (Probe,), {})])
def test_what_cannot_be_looked_at_is_told_and_hides_no_other(tmp_path, bad):
    good = tmp_path / "good.toml"
    good.touch()
    hooks = {"sslkit_probes": [bad, probe("fine", lambda self: None)], "sslkit_recipes": [Unprintable(), good]}
    plugins = Plugins.load(points=[Point("toy", offering(**hooks))])
    assert list(plugins.components["probe"]) == ["toy/fine"]
    assert plugins.recipes() == {"toy/good": good}
    reasons = [item.reason for item in plugins.broken]
    assert len(reasons) == 2
    assert reasons[0].startswith("it offers a probe that cannot be looked at: ")
    assert reasons[1] == "sslkit_recipes() returned what cannot be looked at"
