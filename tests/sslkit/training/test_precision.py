"""What "auto" means: the fastest mode on a CPU, a rule elsewhere; a run keeps it, and arms share it."""

import json
import threading

import pytest

from sslkit.planning import recipe_file, toml
from sslkit.planning.planner import make_plan
from sslkit.storage.run_folder import RunFolder
from sslkit.training import precision, remembered
from sslkit.training.hardware import precision_of
from sslkit.training.options import DeviceOptions, RunOptions
from sslkit.training.precision import AutoChoice, choose, settle, settle_alone, share

CPU = DeviceOptions(accelerator="cpu")


@pytest.fixture
def plan(plugins, recipe_text):
    def plan(*sets):
        made, problems = recipe_file.check_structure(recipe_file.parse(recipe_text, "dots", "dots.toml", sets))
        assert made, problems
        plan, problems = make_plan(made, plugins)
        assert plan, problems
        return plan

    return plan


@pytest.fixture
def folder(tmp_path, plan):
    """Return a function that makes the folder of a run with its resolved recipe, as an ablation writes it."""

    def folder(name, *sets):
        made = RunFolder(tmp_path / name)
        made.path.mkdir()
        made.write_text("recipe.toml", toml.dumps(plan("precision=auto", *sets).resolved()))
        return made

    return folder


# -------------------------------------------------------------------------------------------------------- the rule


def test_the_rule_takes_bfloat16_where_it_is_fast(plan, fast):
    for yes, name in ((True, "bf16-mixed"), (False, "32-true")):
        fast(yes)
        assert choose(plan("precision=auto"), CPU) == AutoChoice(name)


def test_a_written_precision_stays_with_channels_last(plan, plugins, tmp_path):
    written = plan("precision=16-mixed", "auto_memory_format=contiguous")
    assert settle(written, CPU, RunFolder(tmp_path / "x"), plugins) == (written, "precision 16-mixed")
    assert settle_alone(written, CPU) is written
    assert written.recipe.memory_format == "channels-last"


@pytest.mark.parametrize(
    "options", [{"devices": "2"}, {"nodes": 2}, {"strategy": "ddp"}, {"compile": True}, {"accelerator": "mps"}]
)
def test_no_trial_with_several_ranks_other_devices_or_compilation(trials, plan, options):
    options = RunOptions(**{"accelerator": "cpu", **options})
    assert choose(plan("precision=auto"), options).memory_format is None
    assert not trials.plans


def test_no_trial_on_a_gpu(trials, plan, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose(plan("precision=auto"), DeviceOptions()) == AutoChoice("bf16-mixed")
    assert not trials.plans


# ------------------------------------------------------------------------------------------------------ by a trial


def test_a_new_run_takes_the_fastest_mode_and_says_so(trials, plan, plugins, tmp_path):
    settled, note = settle(plan("precision=auto"), CPU, RunFolder(tmp_path / "new"), plugins)
    assert note == "precision 32-true, contiguous (auto: 12 % faster here than bf16-mixed)"
    assert (precision_of(settled.recipe), settled.recipe.memory_format) == ("32-true", "contiguous")
    assert settled.resolved() | {"auto_precision": "32-true", "auto_memory_format": "contiguous"} == settled.resolved()


def test_the_machine_remembers_and_needs_no_second_trial(trials, plan, monkeypatch):
    first = choose(plan("precision=auto"), CPU)
    monkeypatch.setattr(remembered, "_THIS_PROCESS", {})
    assert choose(plan("precision=auto", "seed=7", "epochs=9"), CPU) == first
    assert len(trials.plans) == 1
    choose(plan("precision=auto", "backbone.width=16"), CPU)
    assert len(trials.plans) == 2


def test_float32_alone_is_timed_where_bfloat16_is_slow(trials, plan, fast):
    fast(False)
    choice = choose(plan("precision=auto"), CPU)
    assert (str(choice), choice.reason) == ("32-true, contiguous", "50 % faster here than channels last")


def test_without_an_outcome_the_rule_decides_and_nothing_is_remembered(trials, plan, plugins, tmp_path):
    trials.refused = "other processes keep this machine busy"
    for _ in range(2):
        _, note = settle(plan("precision=auto"), CPU, RunFolder(tmp_path / "new"), plugins)
        assert note == "precision bf16-mixed (auto: by rule: other processes keep this machine busy)"
    assert len(trials.plans) == 2


# --------------------------------------------------------------------------------------------------------- a run


def test_a_run_keeps_what_it_began_with(trials, plan, plugins, folder):
    begun = folder("run", "auto_precision=bf16-mixed", "auto_memory_format=contiguous")
    settled, note = settle(plan("precision=auto"), CPU, begun, plugins)
    assert (precision_of(settled.recipe), settled.recipe.memory_format) == ("bf16-mixed", "contiguous")
    assert note == "precision bf16-mixed, contiguous (auto)"
    assert not trials.plans, "to resume, nothing is timed"
    choose(plan("precision=auto"), CPU)
    _, note = settle(plan("precision=auto"), CPU, begun, plugins)
    assert note == (
        'precision bf16-mixed, contiguous (auto): the run began with it; "auto" would be 32-true, contiguous on this '
        "machine"
    )


def test_a_run_from_before_memory_formats_were_chosen_keeps_channels_last(trials, plan, plugins, folder):
    settled, note = settle(plan("precision=auto"), CPU, folder("old", "auto_precision=32-true"), plugins)
    assert settled.recipe.memory_format == "channels-last"
    assert "auto_memory_format" not in settled.resolved()
    assert note == "precision 32-true (auto)"


def test_a_machine_without_fast_bfloat16_says_that_it_would_choose_otherwise(trials, plan, plugins, folder, fast):
    fast(False)
    _, note = settle(plan("precision=auto"), CPU, folder("old", "auto_precision=bf16-mixed"), plugins)
    assert note == 'precision bf16-mixed (auto): the run began with it; "auto" would be 32-true on this machine'


def test_a_run_resumes_elsewhere_in_the_precision_it_began_with(run, fast, capsys):
    fast(True)
    run("precision=auto", "probes={}", stop_after=2)
    fast(False)
    result = run("precision=auto", "probes={}")
    assert (result.state, result.resumed_from) == ("finished", 2)
    assert 'precision bf16-mixed (auto): the run began with it; "auto" would be 32-true' in capsys.readouterr().err
    assert 'auto_precision = "bf16-mixed"' in (result.folder / "recipe.toml").read_text()


def test_a_run_trains_in_the_chosen_mode_and_records_it(trials, run, capsys):
    result = run("precision=auto", "probes={}")
    assert "precision 32-true, contiguous (auto: 12 % faster here" in capsys.readouterr().err
    text = (result.folder / "recipe.toml").read_text()
    assert 'auto_precision = "32-true"\nauto_memory_format = "contiguous"' in text
    machine = json.loads((result.folder / "environment.json").read_text())[0]["machine"]
    assert (machine["precision"], machine["memory_format"]) == ("32-true", "contiguous")
    assert run("precision=auto", "probes={}").state == "finished", "a finished run is only read"
    assert len(trials.plans) == 1


# ----------------------------------------------------------------------------------------------------------- arms


def test_arms_compute_as_the_full_recipe_does_whichever_starts_first(trials, plan, plugins, folder):
    full, arm = folder("full"), folder("arm", "backbone.width=16")
    share(arm, full)
    share(full, full)
    first, note = settle(plan("precision=auto", "backbone.width=16"), CPU, arm, plugins)
    assert [item.recipe.backbone.model_extra["width"] for item in trials.plans] == [8], "the full recipe is timed"
    assert note == "precision 32-true, contiguous (auto: 12 % faster here than bf16-mixed)"
    trials.seconds = dict.fromkeys(trials.seconds, 1.0)
    other, note = settle(plan("precision=auto"), CPU, full, plugins)
    assert note == "precision 32-true, contiguous (auto)"
    assert first.recipe.memory_format == other.recipe.memory_format == "contiguous"
    third = folder("third", "backbone.width=32")
    share(third, full)
    _, note = settle(plan("precision=auto", "backbone.width=32"), CPU, third, plugins)
    assert note == "precision 32-true, contiguous (auto: the same for all arms)"
    assert len(trials.plans) == 1


def test_arms_that_start_together_wait_for_one_trial(trials, plan, plugins, folder, monkeypatch):
    full = folder("full")
    arms = [folder(f"arm-{number}", f"backbone.width={8 + number}") for number in range(2)]
    for arm in arms:
        share(arm, full)
    locked = threading.Lock()  # a process's locks do not exclude its threads

    def lock(file):
        return locked.acquire(blocking=False)

    entered, release = threading.Event(), threading.Event()
    trial = precision.run_trial

    def slow_trial(plan, modes):
        entered.set()
        assert release.wait(10)
        return trial(plan, modes)

    monkeypatch.setattr(precision, "run_trial", slow_trial)
    monkeypatch.setattr(precision, "_lock", lock)
    monkeypatch.setattr(precision, "_POLL_S", 0.01)
    notes = {}

    def begin(arm):
        notes[arm.path.name] = settle(plan("precision=auto"), CPU, arm, plugins)[1]
        locked.release()

    threads = [threading.Thread(target=begin, args=(arm,)) for arm in arms]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join()
    assert len(trials.plans) == 1
    assert notes["arm-1"] == "precision 32-true, contiguous (auto: the same for all arms)"


def test_an_arm_whose_leader_is_gone_chooses_by_itself(trials, plan, plugins, folder, tmp_path):
    arm = folder("arm")
    share(arm, folder("full"))
    (tmp_path / "full").rename(tmp_path / "moved")
    _, note = settle(plan("precision=auto"), CPU, arm, plugins)
    assert note == "precision 32-true, contiguous (auto: 12 % faster here than bf16-mixed)"


@pytest.mark.parametrize("text", ['[backbone]\nuse = "unknown"', "batch_size = 4"])
def test_an_arm_stands_for_a_full_recipe_that_cannot_be_planned(trials, plan, plugins, folder, text):
    arm, full = folder("arm", "backbone.width=16"), folder("full")
    share(arm, full)
    full.write_text("recipe.toml", text)
    _, note = settle(plan("precision=auto", "backbone.width=16"), CPU, arm, plugins)
    assert note == "precision 32-true, contiguous (auto: 12 % faster here than bf16-mixed)"
    assert [item.recipe.backbone.model_extra["width"] for item in trials.plans] == [16]


def test_an_arm_that_has_begun_follows_nobody(folder):
    arm = folder("arm", "auto_precision=32-true")
    share(arm, folder("full"))
    assert not (arm.path / precision.SAME_AS).exists()


def test_a_folder_that_cannot_be_locked_is_done_without(trials, plan, plugins, folder):
    full = folder("full")
    (full.path / ".precision.lock").mkdir()
    _, note = settle(plan("precision=auto"), CPU, full, plugins)
    assert note.startswith("precision 32-true, contiguous (auto: 12 %")
