import types
from types import MappingProxyType
from typing import Annotated

import pytest
from pydantic import AfterValidator

from sslkit import hookimpl, targets
from sslkit.errors import PluginError
from sslkit.planning import recipe_file, standalone
from sslkit.planning.plan import EmbeddingKey
from sslkit.planning.planner import make_plan
from sslkit.plugins import Owner
from tests.conftest import Dots


@pytest.fixture
def make(plugins, recipe_text):
    def make(*sets, text=recipe_text):
        parsed = recipe_file.parse(text, "test", "test.toml", sets)
        recipe, problems = recipe_file.check_structure(parsed)
        assert not problems, problems
        return make_plan(recipe, plugins)

    return make


def says(problems, *fragments):
    assert len(problems) == len(fragments), problems
    for problem, fragment in zip(problems, fragments, strict=True):
        assert fragment in f"{problem.what} | {problem.instead}"
    return True


def test_a_good_recipe_becomes_a_plan(make):
    plan, problems = make()
    assert not problems
    assert plan.groups == {"scene": 2}
    assert plan.rows == [
        EmbeddingKey("online", "prediction", "scene", "main"),
        EmbeddingKey("target", "projection", "scene", "main"),
    ]
    assert [len(views) for views in plan.views.values()] == [2]
    assert plan.heads["main"].in_dim, plan.heads["main"].dim == (8, 6)
    assert plan.objectives[0].dims == {"v": 2, "d": 6}


def test_the_resolved_recipe_is_a_recipe_and_resolves_to_itself(make, plugins):
    from sslkit.planning import toml

    plan, _ = make()
    text = toml.dumps(plan.resolved())
    again, problems = recipe_file.check_structure(recipe_file.parse(text, "again", "again.toml"))
    assert not problems
    assert make_plan(again, plugins)[0].resolved() == plan.resolved()
    assert plan.resolved()["objectives"]["alike"]["use"] == "fake/alike"
    assert plan.resolved()["plugins"] == {"fake": "1.2"}


def test_what_nobody_requires_is_not_built(make, recipe_text):
    text = recipe_text.replace("[objectives.alike]", "[objectives.parts]\n[[augment.part]]\nsize = 16").replace(
        'use = "pair"', 'use = "pair"\nparts = 3'
    )
    plan, problems = make(text=text)
    assert not problems
    assert plan.groups == {"part": 3}
    assert not plan.heads
    assert not plan.has("target")
    assert "no objective reads the target network: it is not built" in plan.notes
    assert "no objective reads view group 'scene': it is not cropped" in plan.notes


def test_a_missing_view_group_says_what_is_given_and_what_to_write(make):
    plan, problems = make("objectives.parts={}")
    assert plan is None
    assert says(
        problems, "it needs online.features.part, but sampler 'pair' gives no view group 'part' (it gives scene: 2)"
    )
    assert 'inputs = { part = "scene" } in [objectives.parts]' in problems[0].instead


def test_inputs_rebind_groups(make):
    plan, problems = make('objectives.parts={inputs = {part = "scene"}}')
    assert not problems
    assert plan.objectives[1].rows == {"f": EmbeddingKey("online", "features", "scene")}
    assert plan.objectives[1].dims == {"k": 2, "f": 8}


def test_inputs_that_rename_nothing_are_refused(make):
    assert says(
        make('objectives.alike={inputs = {part = "scene"}}')[1],
        "inputs renames group 'part', which fake/alike does not read",
    )


def test_heads_that_are_missing_say_so(make, recipe_text):
    assert says(make("objectives.alike.head=other")[1], "the recipe has no [heads.other] (it has main)")
    assert says(make(text=recipe_text.replace("predictor =", "#"))[1], "[heads.main] has no predictor")


def test_hints_suggest_the_head_that_declares_an_example(make, plugins, recipe_text, monkeypatch):
    _, problems = make(text=recipe_text.replace("predictor =", "#"))
    assert problems[0].instead == 'add predictor = { use = "..." } to [heads.main]'
    monkeypatch.setattr(plugins.find("head", "linear").cls, "example", {"out": 4})
    _, problems = make(text=recipe_text.replace("predictor =", "#"))
    assert problems[0].instead == 'add predictor = { use = "fake/linear", out = 4 } to [heads.main]'


def test_sizes_that_clash_say_where(make):
    assert says(
        make("heads.main.predictor.out=5")[1], "axis 'd' of 'b v d' does not match 6 in 'b 2 6' (it is 5 elsewhere"
    )


def test_an_objectives_own_words_are_heard(make, plugins, recipe_text):
    from sslkit.plugins import Component

    class One(plugins.components["sampler"]["fake/pair"].cls):
        name = "one"
        groups = MappingProxyType({"scene": 1})

    components = {kind: dict(classes) for kind, classes in plugins.components.items()}
    owner = plugins.owners["fake"]
    components["sampler"]["fake/one"] = Component("sampler", "fake/one", One, owner)
    plugins.__dict__["components"] = components
    assert says(make("sampler.use=one")[1], "fake/alike: needs two views or more, got 1")


def test_unknown_components_and_options_come_together(make):
    _, problems = make("sampler.use=pear", "backbone.widht=4", "optimizer.use=sgdd", "accumulate=3")
    assert says(
        problems,
        "unknown sampler 'pear': did you mean 'pair'?",
        "unknown option 'widht': did you mean 'width'?",
        "unknown optimizer 'sgdd': did you mean 'sgd'?",
        "is not divisible",
    )


def test_optimizer_options_are_checked_and_resolved(make):
    assert says(make("optimizer.momentum=2")[1], "momentum = 2")
    assert make()[0].resolved()["optimizer"]["momentum"] == 0.9


def test_augmentation_tables_must_fit_the_views(make, recipe_text):
    three = recipe_text.replace("[[augment.scene]]\nsize = 24", "[[augment.scene]]\nsize = 24\n" * 3)
    assert says(make(text=three)[1], "group 'scene' has 2 views, but 3 [[augment.scene]]")
    none = recipe_text.replace("[[augment.scene]]", "[[augment.other]]")
    assert says(make(text=none)[1], "[[augment.scene]] is missing")
    unlike = recipe_text.replace(
        "[[augment.scene]]\nsize = 24", "[[augment.scene]]\nsize = 24\n[[augment.scene]]\nsize = 32"
    )
    assert says(make(text=unlike)[1], "the views of group 'scene' differ in size (24, 32)")


def test_networks_can_see_different_pixels(make, recipe_text):
    two = '[[augment.scene]]\nsize = 24\nnetwork = "online"\n[[augment.scene]]\nsize = 24\nblur = 0.0\nnetwork = "target"\n'
    plan, problems = make(text=recipe_text.replace("[[augment.scene]]\nsize = 24", two))
    assert not problems
    assert {key: [view.blur for view in views] for key, views in plan.views.items()} == {
        ("scene", "online"): [0.5, 0.5],
        ("scene", "target"): [0.0, 0.0],
    }


def test_views_that_the_backbone_cannot_take_are_refused(make):
    assert says(
        make("augment.scene.0.size=25", "backbone.multiple=8")[1], "cannot take views of 25 x 25 pixels: not of 8"
    )


def test_batches_must_divide_and_fill_batch_norm(make):
    assert says(make("accumulate=3")[1], "batch_size = 4 is not divisible by accumulate = 3")
    assert says(make("batch_size=1")[1], "one image per micro-batch leaves batch norm nothing to normalise over")
    assert says(make("accumulate=4")[1], "one image per micro-batch")


def test_probes_and_their_sources_are_checked(make):
    assert says(make("probes.nearest={unused=true}")[1], "unused = true")
    plan, _ = make("probes.mine={use='nearest', source={use='dots', images=5}}")
    probe = plan.probes["mine"]
    assert (probe.probe.component.id, probe.source.options["images"]) == ("fake/nearest", 5)


def test_other_plugin_versions_are_noted(make):
    plan, _ = make('plugins={fake="1.0"}')
    assert "the recipe was resolved with fake 1.0, but 1.2 is installed" in plan.notes


CONTRAST = ("objectives.contrast={}",)


def test_optional_rows_are_taken_where_the_sampler_gives_their_group(make, recipe_text):
    plain, problems = make(*CONTRAST)
    assert not problems
    assert set(plain.objectives[1].rows) == {"z"}
    assert plain.objectives[1].dims == {"v": 2, "d": 6, "b": 4}
    text = recipe_text.replace('use = "pair"', 'use = "pair"\nparts = 3') + "[[augment.part]]\nsize = 16\n"
    with_parts, problems = make(*CONTRAST, text=text)
    assert not problems
    assert str(with_parts.objectives[1].rows["part"]) == "online.projection.part"
    assert with_parts.objectives[1].dims == {"v": 2, "k": 3, "d": 6, "b": 4}


def test_optional_rows_can_be_pointed_at_another_group(make, recipe_text):
    text = recipe_text + "[[augment.part]]\nsize = 16\n"
    turned = 'objectives.contrast={inputs = {part = "scene", scene = "part"}}'
    plan, problems = make(turned, "sampler.parts=3", text=text)
    assert not problems
    assert str(plan.objectives[1].rows["part"]) == "online.projection.scene"
    _, problems = make('objectives.contrast={inputs = {part = "leaf"}}')
    assert says(problems, "gives no view group 'leaf'")


@pytest.mark.parametrize("inputs", ['part = "scene"', 'scene = "part"'])
def test_optional_rows_that_repeat_a_required_group_are_refused(make, inputs):
    _, problems = make(f"objectives.contrast={{inputs = {{{inputs}}}}}", "sampler.parts=3")
    assert says(problems, "views would be compared with themselves")
    assert "which is optional" in problems[0].instead


def test_a_head_that_is_not_read_must_exist_and_is_not_resolved(make, recipe_text):
    text = recipe_text.replace("[objectives.alike]", '[objectives.parts]\nhead = "main"\n[[augment.part]]\nsize = 16')
    text = text.replace('use = "pair"', 'use = "pair"\nparts = 3').replace("[heads.main", "[heads.other")
    _, problems = make('objectives.parts.head="typo"', text=text)
    assert says(problems, "the recipe has no [heads.typo] (it has other), and parts reads no head")
    plan, problems = make('objectives.parts.head="other"', text=text)
    assert not problems
    assert plan.resolved()["objectives"]["parts"]["head"] == "main"
    assert not plan.resolved()["heads"]


def test_objectives_that_couple_the_batch_know_its_size(make):
    plan, problems = make(*CONTRAST, "batch_size=8", "accumulate=2")
    assert not problems
    assert [item.dims.get("b") for item in plan.objectives] == [None, 4]


def test_batch_norm_of_a_group_that_is_not_cut_is_noted(make):
    plan, _ = make('forward.batch_norm={scene = "per-group", sceen = "per-group"}')
    assert [note for note in plan.notes if "batch_norm" in note] == [
        "[forward] batch_norm names view group 'sceen', which no objective reads"
    ]


def test_a_dense_head_keeps_the_map(make, recipe_text):
    dense = ('heads.dense={projector = {use = "dense", out = 5}}', 'objectives.flat={head = "dense"}')
    plan, problems = make(*dense)
    assert not problems
    assert plan.objectives[1].dims == {"v": 2, "d": 5}
    _, problems = make("objectives.flat={}")
    assert says(problems, "'b v d h w' has 5 axes, but the actual row has 3")
    _, problems = make('heads.dense={projector = {use = "dense"}, predictor = {use = "linear"}}', dense[1])
    assert says(problems, "fake/linear works on 'd', but fake/dense gives 'd h w'")


@pytest.mark.parametrize(("size", "noted"), [(8, True), (11, False), (16, False)])
def test_a_map_of_one_position_is_noted(make, size, noted):
    """The tiny backbone has two convolutions of stride 2 without padding: 16 pixels give a map of 3 x 3, 8 one of 1."""
    plan, problems = make(f"augment.scene.0.size={size}")
    assert not problems
    notes = [note for note in plan.notes if "map of 1 x 1" in note]
    assert bool(notes) == noted
    if notes:
        assert f"views of {size} x {size} pixels (group 'scene')" in notes[0]


def raises_key_error(value):
    raise KeyError("no such table")


def raises_exit(value):
    raise SystemExit(0)


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError


def raises_silently(value):
    raise SilentError


@pytest.mark.parametrize("validator", [raises_key_error, raises_exit, raises_silently])
def test_a_validator_of_a_plugin_that_fails_is_its_failure(plugins, recipe_text, validator):
    class Checks(Dots):
        name = "checks"

        def __init__(self, *, count: Annotated[int, AfterValidator(validator)] = 3): ...

    module = types.ModuleType("checking")
    module.sslkit_sources = hookimpl(lambda: [Checks])
    plugins.add(Owner("checking", "sslkit-checking", "1.0"), module)
    text = recipe_text.replace('use = "dots"', 'use = "checks"\ncount = 4')
    checked = targets.check(recipe_file.parse(text, "t", "t.toml"), plugins, data=False, announce=False)
    [problem] = [item for item in checked.problems if item.key == ("source",)]
    assert problem.kind == "plugin"
    assert (
        "the options of source 'checking/checks' of plugin 'checking' (sslkit-checking 1.0) cannot be checked: "
        in problem.what
    )
    assert f"in {validator.__name__}" in problem.what
    with pytest.raises(PluginError, match="source 'checking/checks' of .* failed: "):
        standalone.build("source", "checks", {"count": 4}, plugins)
