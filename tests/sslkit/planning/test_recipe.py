import pytest

from sslkit.errors import RecipeError, UsageError
from sslkit.planning import recipe, recipe_file
from sslkit.planning.target_table import TargetTable


def parsed(text, *sets):
    return recipe_file.parse(text, "test", "test.toml", sets)


def problems(text, *sets):
    file = parsed(text, *sets)
    return recipe_file.format_problems(file, recipe_file.check_structure(file)[1])


def test_a_good_recipe_has_no_problems(recipe_text):
    table, faults = recipe_file.check_structure(parsed(recipe_text))
    assert not faults
    assert table.objectives["alike"].use == "alike"
    assert table.optimizer.lr(512) == 1.0


def test_broken_toml_names_its_line():
    with pytest.raises(RecipeError, match=r"test.toml is not valid TOML: .*line 2"):
        parsed("seed = 1\nepochs = = 2\n")


@pytest.mark.parametrize(
    ("text", "what"),
    [("seed = " + "9" * 5000, "is not valid TOML"), ("seed = " + "[" * 3000 + "]" * 3000, "nested too deeply")],
)
def test_numbers_and_lists_beyond_bounds_are_reported(text, what):
    with pytest.raises(RecipeError, match=f"test.toml .*{what}"):
        parsed(text)
    assert recipe_file.parse_value("[" * 3000 + "]" * 3000).startswith("[[["), "as an override, it is a plain string"


def test_of_a_table_of_which_only_inner_tables_are_written_the_first_is_named(recipe_text):
    lines = recipe_text.split("\n")
    message = problems("\n".join([*lines, "[heads.Main.projector]", 'use = "mlp"']))
    assert f"test.toml:{len(lines) + 1}: [heads.Main" in message


def test_every_problem_has_its_line_and_comes_at_once(recipe_text):
    text = recipe_text.replace("epochs = 2", 'epochs = "two"').replace("size = 24", "size = 2\nflipp = 1")
    lines = text.splitlines()
    message = problems(text + "\n[targett]\nmomentum = 1\n")
    for fragment, what in [
        ('epochs = "two"', '[epochs] epochs = "two": must be a valid number'),
        ("size = 2", "[augment.scene.0.size] size = 2: must be greater than or equal to 8"),
        ("flipp = 1", "[augment.scene.0.flipp] unknown option 'flipp': did you mean 'flip'?"),
    ]:
        assert f"test.toml:{lines.index(fragment) + 1}: {what}" in message
    assert f"test.toml:{len(lines) + 2}: [targett] unknown option 'targett': did you mean 'target'?" in message


def test_missing_tables_are_named(recipe_text):
    assert "[optimizer] option 'optimizer' is missing" in problems(recipe_text.split("[optimizer]")[0])


def test_epochs_and_steps_exclude_each_other(recipe_text):
    assert "exactly one of epochs = ... and steps = ..." in problems(f"steps = 3\n{recipe_text}")
    assert "exactly one of epochs = ... and steps = ..." in problems(recipe_text.replace("epochs = 2", ""))
    for lengths in ({"epochs": 2.0, "steps": 3}, {}):
        with pytest.raises(ValueError, match="write exactly one of"):
            recipe.Recipe(**{**parsed(recipe_text.replace("epochs = 2", "")).values, **lengths})


@pytest.mark.parametrize(
    ("item", "key", "value"),
    [
        ("optimizer.base_lr=0.1", ("optimizer", "base_lr"), 0.1),
        ("precision=bf16-mixed", ("precision",), "bf16-mixed"),
        ('precision="bf16-mixed"', ("precision",), "bf16-mixed"),
        ("augment.scene.0.size=32", ("augment", "scene", 0, "size"), 32),
        ("probes.knn.k=3", ("probes", "knn", "k"), 3),
        ("augment.scene.0.blur_sigma=[1, 2]", ("augment", "scene", 0, "blur_sigma"), [1, 2]),
    ],
)
def test_set_overrides_one_value(recipe_text, item, key, value):
    values = parsed(recipe_text, item).values
    for part in key:
        values = values[part]
    assert values == value


def test_a_problem_of_an_override_names_the_override(recipe_text):
    assert "--set batch_size=0: [batch_size] batch_size = 0" in problems(recipe_text, "batch_size=0")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("seed", "write --set key.path=value"),
        ("=3", "write --set key.path=value"),
        ("seed.x=3", "'x' cannot be set in 3, which is not a table"),
        ("augment.scene.7.size=3", "'7' must be one of 0 to 0"),
    ],
)
def test_impossible_overrides_are_usage_errors(recipe_text, item, message):
    with pytest.raises(UsageError, match=message):
        parsed(recipe_text, item)


def test_lines_of_arrays_of_tables_are_counted():
    index = recipe_file.line_index(
        'a = 1\n[[augment.scene]]\nflip = 1\n[[augment.scene]]\nflip = 2\n["x.y"]\nz.w = 1\n'
    )
    assert index == {
        ("a",): 1,
        ("augment", "scene", "0"): 2,
        ("augment", "scene", "0", "flip"): 3,
        ("augment", "scene", "1"): 4,
        ("augment", "scene", "1", "flip"): 5,
        ("x.y",): 6,
        ("x.y", "z", "w"): 7,
    }


def test_locate_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text("")
    known = {"univip_coco": tmp_path / "a.toml", "toy/toy": tmp_path / "b.toml"}
    assert recipe_file.locate(str(file), known) == file
    assert recipe_file.locate("univip_coco", known) == known["univip_coco"]
    assert recipe_file.locate("recipes/univip_coco.toml", known) == known["univip_coco"]
    assert recipe_file.locate("toy", known) == known["toy/toy"]
    with pytest.raises(RecipeError, match="named 'univip_cocoo': did you mean 'univip_coco'?"):
        recipe_file.locate("univip_cocoo", known)


def test_a_plugin_that_ships_a_recipe_of_the_same_name_takes_no_place(tmp_path):
    files = {name: tmp_path / name for name in ("lightly/simclr", "a/simclr", "a/mine", "b/mine")}
    assert recipe_file.locate("simclr", files) == files["lightly/simclr"]
    assert recipe_file.locate("a/simclr", files) == files["a/simclr"]
    with pytest.raises(RecipeError, match="several recipes are named 'mine': write a/mine or b/mine"):
        recipe_file.locate("mine", files)


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf"])
def test_weights_are_finite(recipe_text, weight):
    _, problems = recipe_file.check_structure(parsed(recipe_text, f"objectives.alike.weight={weight}"))
    assert [problem.key for problem in problems] == [("objectives", "alike", "weight")]
    assert "finite" in problems[0].what


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "inf"), ("optimizer.warmup_epochs", "inf"), ("optimizer.base_lr", "inf"), ("optimizer.base_lr", "nan"),
        ("target.momentum", "nan"), ("optimizer.clip_grad_norm", "inf"),
    ],
)  # fmt: skip
def test_numbers_are_finite(recipe_text, key, value):
    _, problems = recipe_file.check_structure(parsed(recipe_text, f"{key}={value}"))
    assert [problem.key for problem in problems] == [tuple(key.split("."))]
    assert "must be a finite number" in problems[0].what


@pytest.mark.parametrize("key", ["steps", "epochs", "optimizer.warmup_steps", "optimizer.warmup_epochs"])
def test_lengths_have_an_end(recipe_text, key):
    _, problems = recipe_file.check_structure(parsed(recipe_text, f"{key}=99999999999999999999"))
    assert [problem.key for problem in problems] == [tuple(key.split("."))]
    assert "must be less than or equal to 1000000000" in problems[0].what


@pytest.mark.parametrize(
    ("key", "most"),
    [
        ("augment.scene.0.size", 4096),
        ("probes.x.size", 4096),
        ("probes.x.limit", 10**9),
        ("batch_size", 2**20),
        ("accumulate", 2**20),
        ("min_image_side", 10**9),
    ],
)
def test_sizes_have_an_end(recipe_text, key, most):
    text = recipe_text + '\n[probes.x]\nuse = "knn"\n'
    _, problems = recipe_file.check_structure(parsed(text, f"{key}={most + 1}"))
    assert [problem.key for problem in problems] == [tuple(key.split("."))]
    assert f"must be less than or equal to {most}" in problems[0].what
    assert not recipe_file.check_structure(parsed(text, f"{key}={most}"))[1]


@pytest.mark.parametrize(("rule", "lr"), [("linear", 0.4), ("sqrt", 0.2 * 2**0.5), ("none", 0.2)])
def test_learning_rate_scaling(rule, lr):
    table = recipe.OptimizerTable(use="sgd", base_lr=0.2, lr_scaling=rule)
    assert table.lr(512) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path, recipe_text, encoding):
    file = tmp_path / "mine.toml"
    file.write_bytes(("# größer\r\n" + recipe_text).encode(encoding))
    read = recipe_file.read(file)
    assert read.values == parsed(recipe_text).values
    assert read.lines[("seed",)] == 1 + parsed(recipe_text).lines[("seed",)]


def test_a_recipe_in_another_encoding_is_named_with_the_line(tmp_path, recipe_text):
    file = tmp_path / "mine.toml"
    file.write_bytes(("seed = 1\n# größer\n" + recipe_text).encode("latin-1"))
    with pytest.raises(RecipeError, match=r"mine\.toml cannot be read: line 2 is not UTF-8 text \(byte 0xf6\)"):
        recipe_file.read(file)


@pytest.mark.parametrize(
    ("length", "epoch", "steps"),
    [("steps=7", 3, 7), ("epochs=2.5", 3, 8), ("epochs=1.1", 10, 11), ("epochs=0.001", 10, 1), ("epochs=3", 4, 12)],
)
def test_total_steps(recipe_text, length, epoch, steps):
    """1.1 * 10 is a little more than 11 in floating point, and is 11 steps."""
    made, problems = recipe_file.check_structure(parsed(recipe_text, length))
    assert not problems
    assert made.total_steps(epoch) == steps


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe_file.read(tmp_path)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_target_momentum_has_an_end(recipe_text, schedule):
    table, _ = recipe_file.check_structure(
        parsed(recipe_text, f"target.schedule={schedule}", "target.momentum_end=0.995")
    )
    assert (table.target.schedule, table.target.momentum_end) == (schedule, 0.995)
    assert table.target.model_dump() == {"momentum": 0.99, "schedule": schedule, "momentum_end": 0.995}


def test_a_constant_target_momentum_has_no_end(recipe_text):
    text = recipe_text + '\n[target]\nschedule = "constant"\nmomentum = 0.999\n'
    table, faults = recipe_file.check_structure(parsed(text))
    assert not faults
    assert (table.target.momentum, table.target.momentum_end) == (0.999, 0.999)
    assert table.target.model_dump() == {"momentum": 0.999, "schedule": "constant"}
    assert TargetTable.model_validate(table.target.model_dump()) == table.target


@pytest.mark.parametrize(
    "order", ['schedule = "constant"\nmomentum_end = 0.9', 'momentum_end = 0.9\nschedule = "constant"']
)
def test_a_constant_target_momentum_refuses_an_end(recipe_text, order):
    message = problems(f"{recipe_text}\n[target]\n{order}\n")
    line = f"{recipe_text}\n[target]\n{order}\n".splitlines().index("momentum_end = 0.9") + 1
    assert message == (
        f'test.toml:{line}: [target.momentum_end] momentum_end = 0.9: schedule = "constant" keeps momentum throughout; '
        'leave momentum_end out, or write schedule = "cosine" or "linear"'
    )


def test_an_unknown_schedule_of_the_target_names_those_that_exist(recipe_text):
    message = problems(recipe_text, "target.schedule=step", "target.momentum_end=0.9")
    assert message.startswith('--set target.schedule=step: [target.schedule] schedule = "step": must be ')
    assert all(f"'{name}'" in message for name in ("cosine", "linear", "constant"))


def test_loosened_boxes_have_defaults_and_ranges(recipe_text):
    table = recipe_file.check_structure(parsed(recipe_text, "probes.knn.loosen={}"))[0].probes["knn"]
    assert (table.loosen.shift, table.loosen.scale) == (0.15, (0.9, 1.5))
    assert recipe.ProbeTable(use="knn").loosen is None
    message = problems(recipe_text, "probes.knn.loosen={shift=0.6, scale=[1.5, 0.9]}", "probes.x.loosen.scale=[0, 1]")
    assert "[probes.knn.loosen.shift] shift = 0.6: must be less than or equal to 0.5" in message
    assert "the lowest factor comes first; write scale = [0.9, 1.5]" in message
    assert "must be greater than 0" in message


# ----------------------------------------------------------------------------------------- where a problem was written


def listing(text, *sets):
    parsed = recipe_file.parse(text, "r", "r.toml", sets)
    return recipe_file.format_problems(parsed, recipe_file.check_structure(parsed)[1])


def test_a_problem_of_two_options_names_both_places(recipe_text):
    lines = recipe_text.splitlines()
    first, second = lines.index("epochs = 2") + 1, lines.index("epochs = 2") + 2
    text = recipe_text.replace("epochs = 2", "epochs = 2\nsteps = 4")
    assert listing(text).startswith(f"r.toml:{second} and r.toml:{first}: [steps] steps = 4: the same length")
    overridden = listing(recipe_text, "optimizer={use='sgd', base_lr=1, warmup_epochs=1, warmup_steps=3}")
    assert overridden.startswith("--set optimizer={use=")
    assert overridden.count("--set") == 1
    warm = recipe_text + "warmup_epochs = 1\n\nwarmup_steps = 3\n"
    assert listing(warm).startswith(f"r.toml:{len(lines) + 3} and r.toml:{len(lines) + 1}: [optimizer.warmup_steps]")


@pytest.mark.parametrize(
    "item", ["augment.scene=[{size='x'}]", "augment={scene=[{size='x'}]}", "augment.scene=[{blur_sigma=[1, 'x']}]"]
)
def test_what_an_override_writes_is_not_looked_for_in_the_file(recipe_text, item):
    assert listing(recipe_text, item).startswith(f"--set {item}: ")


@pytest.mark.parametrize("key", ["objectives={Alike={use='alike'}}", "heads={'my head'={}}", "augment={'_x'=[]}"])
def test_names_that_are_no_names_are_told_in_words(recipe_text, key):
    text = listing(recipe_text, key)
    assert "is not a name\n    write lower-case letters, digits and hyphens" in text
    assert "pattern" not in text


@pytest.mark.parametrize("text", ["", "summary = 'x'", "batch_size = 3", "[source]\nuse = 'dots'"])
def test_a_recipe_without_a_length_is_told_beside_what_else_it_lacks(text):
    assert listing(text).count("r.toml: the recipe has no length: write exactly one of epochs") == 1
    assert "option 'sampler' is missing" in listing(text)


@pytest.mark.parametrize(
    ("remove", "what"),
    [("epochs = 2", "r.toml: the recipe has no length"), ("[objectives.alike]", "[objectives] option 'objectives' is")],
)
def test_messages_are_whole_sentences(recipe_text, remove, what):
    text = listing(recipe_text.replace(remove, ""))
    assert what in text
    assert ":  =" not in text
    assert "{" not in text
