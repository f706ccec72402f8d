"""One problem for each cause: what only follows from another problem is not reported beside it."""

import pytest

from sslkit import targets
from sslkit.planning import recipe_file


@pytest.fixture
def problems(plugins, recipe_text):
    """Return a function that checks the fake recipe with overrides: key -> what, and how often each key came."""

    def problems(*sets, edit=("", "")):
        parsed = recipe_file.parse(recipe_text.replace(*edit), "test", "test.toml", sets)
        listed = targets.check(parsed, plugins, data=False, announce=False).problems
        found = {".".join(problem.key): problem.what for problem in listed}
        assert len(found) == len(listed), listed
        return found

    return problems


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        (["heads.main.projector.use=linaer"], "heads.main.projector.use"),
        (["heads.main.predictor.use=linaer"], "heads.main.predictor.use"),
        (["heads.main.projector.out=x"], "heads.main.projector.out"),
        (["heads.main.predictor.owt=3"], "heads.main.predictor.owt"),
        (["heads.main.predictor.use=dense"], "heads.main.predictor.use"),
        (["heads.main=3"], "heads.main"), (["heads=3"], "heads"),
        (["objectives.alike.head=mian"], "objectives.alike.head"),
        (["sampler.use=pear"], "sampler.use"), (["sampler.parts=x"], "sampler.parts"),
        (["sampler.pards=2", "objectives.parts={}"], "sampler.pards"),
        (["backbone.use=tinny"], "backbone.use"), (["backbone.width=x"], "backbone.width"),
        (["backbone.multipel=8", "augment.scene=[{size=25}]"], "backbone.multipel"),
        (["augment.scene=3"], "augment.scene"), (["augment.scene=[{size='x'}]"], "augment.scene.0.size"),
        (["augment.scene=[{sizes=3}, {size=24}, {size=24}]"], "augment.scene.0.sizes"),
        (["objectives.alike.use=alik"], "objectives.alike.use"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_problem(problems, sets, key):
    assert list(problems(*sets)) == [key]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[heads.main]", "[head.main]", "head"), ("[heads.main]", "[heads.Main]", "heads.Main"), ("[heads.main]", "[heads.MAIN]", "heads.MAIN"),
        ("epochs = 2", "epoch = 2", "epoch"), ("epochs = 2", "step = 2", "step"), ("epochs = 2", "epocs = 2", "epocs"),
        ("batch_size = 4", "batchsize = 4", "batchsize"), ("batch_size = 4", "batch-size = 4", "batch-size"),
        ("[optimizer]", "[optimiser]", "optimiser"), ("[objectives.alike]", "[objective.alike]", "objective"),
        ("[[augment.scene]]", "[[augmentation.scene]]", "augmentation"), ("[[augment.scene]]", "[[augment.Scene]]", "augment.Scene"),
        ("[source]", "[sources]", "sources"), ("[backbone]", "[backbon]", "backbon"), ("base_lr = ", "baselr = ", "optimizer.baselr"), ("use = \"dots\"", "us = \"dots\"", "source.us"),
        ("batch_size = 4", "batch_size = '4'\naccumulate = 3", "batch_size"), ("batch_size = 4", "batch_size = 4\naccumulate = 'x'", "accumulate"),
        ("[[augment.scene]]\nsize = 24\n", "[[augment.scene]]\nsize = 24\n" * 3, "augment.scene"),
    ],
)  # fmt: skip
def test_one_misspelt_key_is_one_problem(problems, recipe_text, old, new, key):
    assert recipe_text.count(old) == 1
    assert list(problems(edit=(old, new))) == [key]


def test_a_misspelt_key_beside_the_right_one_hides_nothing(problems):
    assert set(problems("batchsize=4", "batch_size=x")) == {"batchsize", "batch_size"}
    assert set(problems("batchsize=4", "optimizer.base_lr=x")) == {"batchsize", "optimizer.base_lr"}


def test_a_misspelt_option_of_a_component_is_not_missing_as_well(installed):
    from sslkit.foreign.signatures import schema
    from sslkit.planning.options import validate

    checked = 0
    for kind in ("source", "backbone", "head", "sampler"):
        for component in installed.components[kind].values():
            model = schema(component.cls)
            required = [key for key, field in model.model_fields.items() if field.is_required()]
            if len(required) == 1 and len(required[0]) > 3:
                name = required[0]
                for wrong in (name[:-1], name[1:], f"{name}s"):
                    [problem] = validate(model, {wrong: "x"}, ("source",))[1]
                    assert problem.what == f"unknown option '{wrong}': did you mean '{name}'?"
                    checked += 1
    assert checked


def test_a_misspelt_predictor_is_the_only_problem(problems):
    edit = ('predictor = { use = "linear" }', 'predicter = { use = "linear" }')
    assert list(problems(edit=edit)) == ["heads.main.predicter"]


def test_a_misspelt_head_gets_a_close_match(problems):
    assert "did you mean 'main'?" in problems("objectives.alike.head=mian")["objectives.alike.head"]


def test_separate_mistakes_are_all_reported(problems):
    sets = [
        "heads.main.projector.use=linaer",
        "objectives.contrast={head='mian'}",
        "optimizer.momentun=1",
        "sampler.x=1",
    ]
    assert set(problems(*sets)) == {
        "heads.main.projector.use", "objectives.contrast.head", "optimizer.momentun", "sampler.x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "first", "second"),
    [
        ("[probes.nearest]\ncrops = 'objects'\nfit = 'centre-crop'\n", "fit =", "crops ="),
        ("[probes.nearest]\ncrops = 'images'\nloosen = {}\n", "loosen =", "crops ="),
        ("[probes.nearest]\nsize = 16\npool = 'grid-4'\nlimit = 9\n[probes.nearest.test_source]\nuse = 'dots'\nfirst = 3\n",
         "pool =", "size ="),
        ("[probes.nearest]\ntest_share = 0.5\ntest_source = { use = 'dots', first = 3 }\n", "test_share", "test_source"),
    ],
)  # fmt: skip
def test_problems_of_two_options_name_both_lines(plugins, recipe_text, more, first, second):
    text = recipe_text + more
    numbered = list(enumerate(text.splitlines(), 1))
    lines = [[number for number, line in numbered if line.startswith(word)][-1] for word in (first, second)]
    checked = targets.check(recipe_file.parse(text, "t", "t.toml"), plugins, data=False, announce=False)
    assert f"t.toml:{lines[0]} and t.toml:{lines[1]}: [probes.nearest." in str(checked.error())


def test_a_batch_that_does_not_divide_names_both_places(plugins, recipe_text):
    parsed = recipe_file.parse(recipe_text, "t", "t.toml", ["accumulate=3"])
    checked = targets.check(parsed, plugins, data=False, announce=False)
    line = recipe_text.splitlines().index("batch_size = 4") + 1
    assert f"--set accumulate=3 and t.toml:{line}: [accumulate]" in str(checked.error())


def test_the_share_of_a_resolved_recipe_is_no_problem(problems):
    """It has every default; and without other images to test on, any share is right."""
    assert not problems("probes.nearest={size=24, test_share=0.25, test_source={use='dots', first=3}}")
    assert not problems("probes.nearest={size=24, test_share=0.5}")


def test_steps_take_the_place_of_epochs_and_the_reverse(plugins, recipe_text):
    for sets, expected in [
        (["steps=10"], {"steps": 10}), (["steps=10", "epochs=3"], {"epochs": 3}),
        (["epochs=3", "steps=10"], {"steps": 10}), (["epochs=5"], {"epochs": 5}),
    ]:  # fmt: skip
        values = recipe_file.parse(recipe_text, "t", "t.toml", sets).values
        assert {key: values[key] for key in ("steps", "epochs") if key in values} == expected
