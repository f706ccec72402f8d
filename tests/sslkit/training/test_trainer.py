import gc
import json
import math
import multiprocessing
import random
import shutil
import signal
import types
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch._functorch import config as functorch

import sslkit_logs
from sslkit import hookimpl, schedules
from sslkit.api import Objective, Terms
from sslkit.errors import DataError, DivergedError, PluginError, PreemptedError, RecipeError, StorageError, UsageError
from sslkit.networks import StepModule
from sslkit.networks.monitors import is_measured
from sslkit.plugins import Owner
from sslkit.seeds import seed_of
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training import collapse, setup, trainer
from sslkit.training.checkpointer import Checkpointer
from sslkit.training.hardware import check_batch
from sslkit.training.probes import RunProbes
from sslkit.training.reporter import Reporter
from sslkit.training.step import TrainStep
from tests.states import newest, same


def test_a_run_ends_with_everything_in_its_folder(run):
    result = run()
    assert (result.state, result.step, result.steps) == ("finished", 6, 6)
    assert {
        "alike.distance",
        "alike.norm",
        "loss",
        "lr",
        "target_momentum",
        "grad_norm",
        "feature_std",
    } <= result.terms.keys()
    assert result.terms["sampler.drawn"] == 1
    names = {path.name for path in result.folder.iterdir()}
    assert {"recipe.toml", "environment.json", "status.json", "checkpoints", "backbone.safetensors"} <= names
    status = json.loads((result.folder / "status.json").read_text())
    assert {name: status[name] for name in ("state", "step", "steps", "images")} == {
        "state": "finished", "step": 6, "steps": 6, "images": 24,
    }  # fmt: skip
    assert 0 < status["step_seconds"] < status["seconds"]
    assert status["peak_memory"] > 50e6
    assert [path.name for path in sorted((result.folder / "checkpoints").iterdir())] == [
        "newest.json",
        "step-00000003.pt",
        "step-00000006.pt",
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_bit(run, workers):
    assert same(newest(run(folder="a"))["model"], newest(run(folder="b", workers=workers))["model"])


@pytest.mark.parametrize(("cores", "threads", "expected"), [(2, 2, 0), (2, 1, 1), (1, 1, 0), (4, 4, 3), (64, 64, 8)])
def test_by_default_loader_processes_take_the_cores_that_steps_leave(train_step, monkeypatch, cores, threads, expected):
    monkeypatch.setattr(setup, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert train_step(workers=None).setup.workers == expected


def test_networks_are_freed_as_soon_as_the_run_is_over(run, monkeypatch):
    networks, init = [], StepModule.__init__
    monkeypatch.setattr(
        StepModule, "__init__", lambda self, *given: (init(self, *given), networks.append(weakref.ref(self)))[0]
    )
    gc.collect()
    gc.disable()
    try:
        run()
        assert [network() for network in networks] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_bits(run, stop):
    whole = run("backbone.dropout=0.5", "backbone.width=6", folder="whole")
    half = run("backbone.dropout=0.5", "backbone.width=6", folder="half", stop_after=stop)
    assert (half.state, half.step) == ("stopped", stop)
    rest = run("backbone.dropout=0.5", "backbone.width=6", folder="half")
    assert (rest.state, rest.resumed_from) == ("finished", stop)
    assert same(newest(whole), newest(rest))


def test_a_damaged_checkpoint_is_told_and_costs_no_bit(run, capsys):
    whole = run(folder="whole")
    half = run(folder="half", stop_after=5, save_every=2)
    path = checkpoint.latest(half.folder / "checkpoints")
    path.write_bytes(path.read_bytes()[:-100])
    rest = run(folder="half")
    assert rest.resumed_from == 4
    assert "warning: " in (told := capsys.readouterr().err)
    assert "step-00000005.pt is not a complete checkpoint" in told
    assert same(newest(whole), newest(rest))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with it")
@pytest.mark.slow
def test_a_compiled_run_takes_the_same_steps_the_monitored_ones_too(run, small_recipe, installed, monkeypatch):
    made, compile_ = [], nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda part, *args: (made.append(part), compile_(part, *args)))
    monkeypatch.setattr(functorch, "donated_buffer", True)
    given = {"text": small_recipe, "using": installed, "monitor_every": 2}
    plain, compiled = (
        run("precision=32-true", folder=name, compile=name == "compiled", **given) for name in ("plain", "compiled")
    )
    assert len(made) == 2, "both backbones"
    assert not functorch.donated_buffer, "the conflict map could not go backward a second time"
    assert compiled.terms["loss"] == pytest.approx(plain.terms["loss"], rel=1e-3)
    ends = [newest(one)["model"] for one in (plain, compiled)]
    apart = sum(float((held - ends[1][key]).double().square().sum()) for key, held in ends[0].items())
    assert apart < 1e-6 * sum(float(held.double().square().sum()) for held in ends[0].values())


def test_checkpoints_are_kept_for_good_every_so_often(run):
    result = run(save_every=1, keep=1, keep_every=2)
    names = [path.name for path in sorted((result.folder / "checkpoints").glob("*.pt"))]
    assert names == [f"step-{step:08d}.pt" for step in (2, 4, 6)]


@pytest.fixture
def full_disk(monkeypatch):
    """Let checkpoints of some steps meet a full disk."""

    def full_disk(*steps):
        add = checkpoint.add

        def fails(folder, state, *rest):
            if state["step"] in steps:
                raise StorageError("cannot write it: no space left")
            return add(folder, state, *rest)

        monkeypatch.setattr(checkpoint, "add", fails)

    return full_disk


def test_a_full_disk_is_told_and_the_run_goes_on(run, full_disk, capsys):
    full_disk(2, 3)
    result = run(save_every=1, keep=9)
    assert result.state == "finished"
    told = capsys.readouterr().err
    for step in (2, 3):
        assert f"warning: no checkpoint after step {step}: cannot write it: no space left; the run continues" in told
    names = [path.name for path in sorted((result.folder / "checkpoints").glob("*.pt"))]
    assert names == [f"step-{step:08d}.pt" for step in (1, 4, 5, 6)]


def test_a_full_disk_behind_the_last_step_fails_and_the_same_command_ends_it(run, full_disk, monkeypatch):
    whole = run(folder="whole")
    full_disk(6)
    with pytest.raises(StorageError, match=r"no space left\n    all 6 steps are done; the same command saves them"):
        run()
    monkeypatch.undo()
    rest = run()
    assert (rest.state, rest.resumed_from) == ("finished", 3)
    assert same(newest(whole), newest(rest))


def test_a_full_disk_when_asked_to_stop_is_told(run, full_disk, monkeypatch):
    full_disk(3)
    original = Reporter.step

    def report(self, terms):
        original(self, terms)
        if self.state.step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Reporter, "step", report)
    with pytest.raises(PreemptedError, match=r"after step 3 of 6.*\n    cannot write it.*from an older checkpoint"):
        run(save_every=2)


def test_a_checkpoint_of_other_networks_says_which_versions_differ(run, monkeypatch):
    result = run(stop_after=2)
    path = checkpoint.latest(result.folder / "checkpoints")
    state = checkpoint.load(path)
    state["model"].pop(next(iter(state["model"])))
    state["sslkit"] = "0.0.9"
    checkpoint.save(path, state)
    with pytest.raises(
        DataError, match=r"does not fit what this recipe builds now .*Missing key.*sslkit 0\.0\.9 -> .*--arm NAME"
    ):
        run()


def test_every_global_generator_is_a_function_of_the_step(run, plugins, monkeypatch):
    """An objective that draws from numpy's or Python's draws the same after a resume."""
    drawn = []
    original = TrainStep.all_reduce

    def all_reduce(self, micro, last=False):
        drawn.append((self.state.step, random.random(), np.random.rand(), torch.rand(()).item()))
        return original(self, micro, last)

    monkeypatch.setattr(TrainStep, "all_reduce", all_reduce)
    run(folder="whole")
    whole, drawn[:] = list(drawn), []
    run(folder="half", stop_after=2)
    run(folder="half")
    assert drawn == whole
    assert len({numbers[1:] for numbers in whole}) == 6


def test_a_finished_run_says_so_and_trains_nothing(run):
    first = run()
    stamp = checkpoint.latest(first.folder / "checkpoints").stat().st_mtime_ns
    again = run()
    assert (again.state, again.resumed_from, again.steps) == ("finished", 6, 6)
    assert checkpoint.latest(first.folder / "checkpoints").stat().st_mtime_ns == stamp


def test_another_recipe_is_refused_with_the_difference(run):
    run(stop_after=1)
    with pytest.raises(RecipeError, match=r"different recipe:\n    optimizer.base_lr: 0.5 -> 0.25\n"):
        run("optimizer.base_lr=0.25")


def test_a_run_that_failed_before_its_first_step_keeps_no_folder_for_its_recipe(run):
    with pytest.raises(DataError, match="images were tried for a place of a batch, and none can be used"):
        run(f"source.broken={list(range(40))}", "max_bad_images=1000", "max_bad_share=1.0")
    result = run("optimizer.base_lr=0.25")
    assert (result.state, result.resumed_from) == ("finished", 0)
    assert not (result.folder / "failed.txt").exists()
    assert len(json.loads((result.folder / "environment.json").read_text())) == 1


def test_the_target_moves_once_per_optimizer_step(run, plugins, recipe_text):
    moves = []
    original = StepModule.update_target
    StepModule.update_target = lambda self, momentum: moves.append(momentum) or original(self, momentum)
    try:
        run("accumulate=2", "target.momentum=0.9")
    finally:
        StepModule.update_target = original
    assert len(moves) == 6
    assert moves[0] == pytest.approx(0.9, abs=1e-12)
    assert moves == sorted(moves)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.8 + 0.1 * k / 6 for k in range(6)]),
        ("constant", [0.8] * 6),
        (None, [0.9 - 0.05 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]),
    ],
)
def test_the_target_momentum_follows_its_schedule(run, monkeypatch, schedule, expected):
    moves = []
    monkeypatch.setattr(StepModule, "update_target", lambda self, momentum: moves.append(momentum))
    sets = [f"target.schedule={schedule}"] if schedule else []
    run("target.momentum=0.8", *sets, *([] if schedule == "constant" else ["target.momentum_end=0.9"]))
    assert moves == pytest.approx(expected, abs=1e-12)


def test_a_run_with_a_constant_target_momentum_resumes(run):
    sets = ("target.momentum=0.8", "target.schedule=constant")
    assert run(*sets, stop_after=1).state == "stopped"
    assert run(*sets).state == "finished"


def test_a_warmup_in_steps_is_the_same_in_epochs(run):
    """Three steps are an epoch of twelve images."""
    given = [("epochs=2", "optimizer.warmup_epochs=1"), ("steps=6", "optimizer.warmup_steps=3")]
    one, other = (run(*sets, folder=str(number)) for number, sets in enumerate(given))
    assert same(newest(one)["model"], newest(other)["model"])
    assert not same(newest(one)["model"], newest(run(folder="none"))["model"])
    begun = run("steps=6", "optimizer.warmup_steps=3", "optimizer.base_lr=0.64", stop_after=3, folder="begun")
    assert begun.terms["lr"] == pytest.approx(0.01 * 2 / 3)
    assert run(*given[1], folder="1").state == "finished"
    with pytest.raises(RecipeError, match=r"optimizer.warmup_epochs: \(absent\) -> 1.0\n"):
        run("steps=6", "optimizer.warmup_epochs=1", folder="1")


def test_a_run_from_before_target_schedules_resumes(run):
    half = run(stop_after=2)
    recipe = half.folder / "recipe.toml"
    text = recipe.read_text()
    assert 'schedule = "cosine"\n' in text
    recipe.write_text(text.replace('schedule = "cosine"\n', ""))
    assert run().state == "finished"
    with pytest.raises(RecipeError, match=r'target.schedule: \(absent\) -> "linear"\n'):
        run("target.schedule=linear")


def test_accumulated_gradients_are_those_of_the_whole_batch(run, recipe_text):
    """Without batch norm coupling (a mean over the batch of a per-image loss) two halves make the whole."""
    text = recipe_text.replace('use = "tiny"', 'use = "tiny"\nnorm = false')
    one = newest(run("steps=1", text=text.replace("epochs = 2", ""), folder="one"))
    two = newest(run("steps=1", "accumulate=2", text=text.replace("epochs = 2", ""), folder="two"))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_monitor_that_is_not_finite_is_shown_and_the_run_goes_on(run, plugins, monkeypatch, capsys, value):
    def forward(self, p, z):
        return Terms({"distance": (p - z.flip(1)).square().mean()}, {"norm": p.norm() * value})

    monkeypatch.setattr(plugins.find("objective", "alike").cls, "forward", forward)
    plugins.add(Owner("logs", "sslkit-logs", "1"), sslkit_logs)
    result = run("probes={}")
    assert result.state == "finished"
    assert f"alike.norm {value:.4g}" in capsys.readouterr().err
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["alike.norm"] is None and math.isfinite(line["loss"]) for line in lines)


def test_what_is_not_finite_stops_before_the_optimizer_step(run, tmp_path):
    with pytest.raises(DivergedError, match=r"step 2 is not finite: .*explode.loss = nan"):
        run("objectives.explode={}", save_every=1)
    saved = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert saved["step"] == 1
    assert all(value.isfinite().all() for value in saved["model"].values() if value.is_floating_point())
    record = tmp_path / "run" / "diverged-step-00000002"
    told = json.loads((record / "record.json").read_text())
    assert (told["step"], told["processes"], told["terms"]["explode.loss"]) == (2, 1, "nan")
    assert "online.backbone.net.0.weight" in told["without_finite_gradient"]
    [[hand]] = told["in_hand"]
    assert len(hand["images"]) == len(hand["keys"]) == len(hand["boxes.scene"]) == 4
    assert told["seeds"] == {"0.0": seed_of(3, "pass", 1, 0, 0)}


def test_the_flight_record_holds_everything_as_it_was_before_the_step(run, tmp_path):
    """Also what the passes changed: running statistics, and queues (here: a counter)."""
    with pytest.raises(DivergedError, match=r"sslkit verify replay .*diverged-step-00000002` replays it"):
        run("objectives.explode={}", save_every=1)
    before = checkpoint.load(tmp_path / "run" / "diverged-step-00000002" / "before.pt")
    saved = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    for name in ("step", "model", "counts", "skipped"):
        assert same(before[name], saved[name]), name
    assert same(before["optimizer"]["state"], saved["optimizer"]["state"])


@pytest.fixture
def poisoned(monkeypatch):
    """Let batches at some places give a loss that is not finite, whenever they are taken."""

    def poisoned(*places):
        original = TrainStep.all_reduce

        def all_reduce(self, micro, last=False):
            terms = original(self, micro, last)
            return (
                {**terms, "loss": float("nan")} if self.setup.epochs.batch_index(self.state.step) in places else terms
            )

        monkeypatch.setattr(TrainStep, "all_reduce", all_reduce)

    return poisoned


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_diverges_is_left_out_after_a_rollback(run, poisoned, records, capsys, workers):
    poisoned(4)
    result = run(on_divergence="rollback", save_every=3, workers=workers)
    told = capsys.readouterr().err
    assert (
        "warning: step 5 was not finite; back to step 3, without the batch of that step (rollback 1 of at most 3)"
        in told
    )
    assert (result.state, result.step) == ("finished", 6)
    assert newest(result)["skipped"] == [4]
    assert [item["step"] for item in records] == [1, 2, 3, 4, 4, 5, 6]
    assert [item.get("rollbacks", 0) for item in records] == [0, 0, 0, 0, 1, 1, 1]


def test_after_a_rollback_the_other_batches_are_those_that_a_run_without_it_takes(run, poisoned, monkeypatch):
    taken = []
    original = TrainStep.accumulate

    def accumulate(self, loader):
        micro = original(self, loader)
        taken.append((self.state.step, micro.batches[0]["index"].tolist()))
        return micro

    monkeypatch.setattr(TrainStep, "accumulate", accumulate)
    run(folder="whole")
    whole, taken[:] = dict(taken), []
    poisoned(1, 3)
    run(folder="rolled", on_divergence="rollback", save_every=1)
    assert [step for step, _ in taken] == [0, 1, 1, 2, 2, 3, 4, 5]
    last = dict(taken)
    assert [last[step] for step in range(4)] == [whole[place] for place in (0, 2, 4, 5)]


def test_a_killed_run_meets_the_same_rollbacks(run, poisoned):
    poisoned(1, 4)
    whole = run(folder="whole", on_divergence="rollback")
    run(folder="half", on_divergence="rollback", stop_after=3)
    rest = run(folder="half", on_divergence="rollback")
    assert same(newest(whole)["model"], newest(rest)["model"])
    assert newest(rest)["skipped"] == [1, 4]


def test_the_first_step_can_be_rolled_back_too(run, poisoned):
    poisoned(0)
    result = run(on_divergence="rollback")
    assert result.state == "finished"
    assert newest(result)["skipped"] == [0]


def test_rollbacks_come_to_an_end(run, poisoned):
    poisoned(*range(2, 50))
    with pytest.raises(
        DivergedError, match=r"step 3 is not finite(.|\n)*skipped 2 times, the limit of --max-rollbacks"
    ):
        run(on_divergence="rollback", max_rollbacks=2)


def test_a_full_disk_leaves_no_record_and_says_so(run, monkeypatch):
    def full(path, state):
        raise StorageError("cannot write it: no space left")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(DivergedError, match="No record was written: cannot write it: no space left"):
        run("objectives.explode={}", save_every=50)


def test_an_unreadable_image_is_named(run):
    stops = ("source.broken=[5]", 'on_bad_image="stop"')
    with pytest.raises(DataError, match=r"image 5 \(0005.png\): 0005.png is not an image"):
        run(*stops)
    with pytest.raises(DataError, match=r"image 5 \(0005.png\)"):
        run(*stops, folder="workers", workers=1)


def test_a_bad_image_is_skipped_listed_and_counted(run, records, capsys):
    result = run("source.broken=[5]", "max_bad_share=0.1")
    assert "warning: skipped, and replaced by another: image 5 (0005.png): 0005.png is not an image" in (
        capsys.readouterr().err
    )
    [row] = json.loads((result.folder / "bad_images.json").read_text())
    assert (row["image"], row["key"]) == (5, "0005.png")
    assert "is not an image" in row["reason"]
    counted = [record.get("bad_images", 0) for record in records]
    assert counted == sorted(counted)
    assert (counted[0], counted[-1]) in {(0, 1), (1, 1)}


@pytest.mark.parametrize("workers", [0, 2])
def test_with_bad_images_a_resumed_run_ends_with_the_same_bits(run, workers):
    sets = ("source.broken=[1, 5, 7]", "max_bad_share=0.5")
    whole = run(*sets, folder="whole")
    run(*sets, folder="half", stop_after=2, workers=workers)
    rest = run(*sets, folder="half", workers=workers)
    assert same(newest(whole), newest(rest))
    assert newest(rest)["bad_images"].keys() == {1, 5, 7}


@pytest.mark.parametrize("limit", ["max_bad_images=1", "max_bad_share=0.1"])
def test_too_many_bad_images_end_the_run_and_a_higher_limit_lets_it_go_on(run, limit):
    broken, free = "source.broken=[1, 5]", ("max_bad_share=1.0", "max_bad_images=9")
    whole = run(broken, *free, folder="whole")
    with pytest.raises(DataError, match=r"2 of 12 images cannot be used.*" + limit.replace("=", " = ")):
        run(broken, "max_bad_share=1.0", limit)
    rest = run(broken, *free)
    assert rest.resumed_from > 0
    assert same(newest(whole)["model"], newest(rest)["model"])


def test_probes_leave_out_what_cannot_be_read_and_say_so(run, capsys):
    probe = "probes.nearest={size=16, test_share=0.5}"
    assert "trained" in run("source.broken=[5]", "max_bad_share=1.0", probe).probes
    assert (
        "warning: probes nearest leave out images that cannot be read: 0005.png is not an image"
        in capsys.readouterr().err
    )


@pytest.fixture
def renamed(plugins, monkeypatch):
    """Let one image have another name from now on."""

    def rename():
        cls = plugins.components["source"]["fake/dots"].cls
        original = cls.key
        monkeypatch.setattr(cls, "key", lambda self, index: "new.png" if index == 5 else original(self, index))

    return rename


def test_other_images_than_the_run_began_with_are_refused(run, renamed, capsys):
    run(stop_after=2)
    renamed()
    with pytest.raises(DataError, match=r"not those that the run began with .*--on-changed-images continue"):
        run()
    result = run(on_changed_images="continue")
    assert result.state == "finished"
    assert "warning: the images are not those that the run began with" in capsys.readouterr().err


def test_another_number_of_processes_than_before_is_told(run, monkeypatch, capsys):
    original = Checkpointer.about
    monkeypatch.setattr(Checkpointer, "about", lambda self: {**original(self), "processes": 4})
    run(stop_after=2)
    assert "ranks so far" not in capsys.readouterr().err
    run()
    assert "warning: 4 ranks so far, now 1: `sslkit verify world-size` shows" in capsys.readouterr().err


def test_missing_data_says_how_to_get_it(run):
    with pytest.raises(DataError, match="run: make dots"):
        run("source.absent=true")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_stops_resumably_and_leaves_no_process(run, monkeypatch, workers):
    """The signal comes behind step 2; all processes agree to stop with the numbers of step 3."""
    whole = run(folder="whole")
    original = Reporter.step

    def report(self, terms):
        original(self, terms)
        if self.state.step == 2 and self.folder.path.name == "half":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Reporter, "step", report)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="stopped by SIGTERM after step 3 of 6"):
        run(folder="half", workers=workers)
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    assert same(newest(whole), newest(run(folder="half")))


def test_a_signal_that_was_ignored_before_stays_ignored(run, monkeypatch):
    """As under nohup, so that a run outlives its terminal."""
    original = Reporter.step

    def report(self, terms):
        original(self, terms)
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(Reporter, "step", report)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run().state == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt, which it does not in what a script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_acts_at_once(run, monkeypatch):
    """Ctrl-C twice; the run goes on from its newest checkpoint."""
    original = TrainStep.__call__

    def step(self, loader):
        if self.state.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return original(self, loader)

    monkeypatch.setattr(TrainStep, "__call__", step)
    with pytest.raises(KeyboardInterrupt):
        run(save_every=2)
    monkeypatch.undo()
    result = run()
    assert (result.resumed_from, result.state) == (2, "finished")


def test_one_that_is_interrupted_behind_the_last_step_still_writes_its_weights(run, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunProbes, "after", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    result = run()
    assert result.state == "finished"
    assert (result.folder / "backbone.safetensors").exists()


def test_a_signal_in_the_last_step_leaves_a_whole_run(run, monkeypatch):
    """Not one that says it is finished, and has no weights."""
    original = Reporter.step

    def report(self, terms):
        original(self, terms)
        if self.state.step == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Reporter, "step", report)
    result = run("probes.nearest={size=16, test_share=0.5}")
    assert (result.state, result.step) == ("finished", 6)
    assert "trained" in result.probes
    assert (result.folder / "backbone.safetensors").exists()


@pytest.mark.parametrize("last_batch", ["pad", "drop"])
@pytest.mark.parametrize(("images", "batch_size"), [(12, 64), (12, 14), (3, 4), (1, 2)])
def test_a_batch_holds_no_copies_of_an_image(run, images, batch_size, last_batch):
    with pytest.raises(DataError, match=f"{images} images do not fill a batch of {batch_size}: .* = {images} or less"):
        run(f"source.images={images}", f"batch_size={batch_size}", f'last_batch="{last_batch}"')


def test_too_few_images_per_pass_are_refused():
    with pytest.raises(UsageError, match="1 images per micro-batch"):
        check_batch(4, 2, 2)


@pytest.mark.parametrize(
    ("hardware", "says"),
    [
        ({"accelerator": "gpux"}, "--accelerator gpux --devices auto --nodes 1: Lightning Fabric says: .*gpux"),
        ({"devices": "0"}, "--accelerator cpu --devices 0 --nodes 1: Lightning Fabric says: "),
    ],
)
def test_hardware_that_is_not_there_is_told(run, hardware, says):
    with pytest.raises(UsageError, match=says):
        run(**hardware)


def test_padding_fills_the_last_batch(run):
    assert run("batch_size=8", "epochs=1").steps == 2
    assert run("batch_size=8", "epochs=1", 'last_batch="drop"', folder="drop").steps == 1
    assert run("batch_size=12", "epochs=1", folder="one").steps == 1


def test_a_failing_observer_is_switched_off_and_the_run_goes_on(run, plugins, capsys):
    module = types.ModuleType("bad")

    @hookimpl
    def sslkit_step_finished(run, step, terms):
        raise RuntimeError("disk full")

    module.sslkit_step_finished = sslkit_step_finished
    plugins.add(Owner("bad", "sslkit-bad", "0.1"), module)
    assert run().state == "finished"
    assert capsys.readouterr().err.count("plugin 'bad' (sslkit-bad 0.1) failed in sslkit_step_finished") == 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("kind", "id_", "method"),
    [
        ("objective", "fake/alike", "forward"), ("backbone", "fake/tiny", "forward"), ("head", "fake/linear", "forward"),
        ("sampler", "fake/pair", "sample"), ("source", "fake/dots", "read"),
    ],
)  # fmt: skip
def test_a_failing_component_ends_the_run_with_its_plugins_name_and_version(
    run, plugins, monkeypatch, tmp_path, kind, id_, method, workers
):
    cls = plugins.components[kind][id_].cls
    original = getattr(cls, method)

    def fail(self, *given, **named):
        if given and getattr(given[0], "is_meta", False):  # planning asks for shapes
            return original(self, *given, **named)
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(cls, method, fail)
    with pytest.raises(PluginError) as caught:
        run(workers=workers)
    told = str(caught.value)
    assert f"{kind} '{id_}' of plugin 'fake' (sslkit-fake 1.2) failed: ZeroDivisionError: by nought\n" in told
    assert told.endswith(", in fail")
    assert "Traceback" not in told
    assert told.startswith("image ") == (kind in ("sampler", "source"))
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", told)
    assert (tmp_path / "run" / "failed.txt").read_text().startswith("Traceback")
    monkeypatch.undo()
    assert run().state == "finished"
    assert not (tmp_path / "run" / "failed.txt").exists()


def test_a_full_memory_is_no_plugins_fault(run, plugins, monkeypatch):
    def fail(self, *given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(plugins.components["objective"]["fake/alike"].cls, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        run()


def test_probes_are_printed_beside_pixels_and_random_weights(run):
    result = run("probes.nearest={size=16, test_share=0.5}")
    assert set(result.probes) == {"raw pixels", "random weights", "random weights, calibrated", "trained"}
    assert result.probes["raw pixels"]["nearest"]["top1"] == 1.0
    assert json.loads((result.folder / "probes.json").read_text()) == result.probes


def test_the_references_change_no_bit_of_the_training(run, monkeypatch):
    """Compare a run that measures raw pixels and random weights first, as they are and calibrated, with one that
    measures nothing."""
    probed = run("probes.nearest={size=16, test_share=0.5}", "backbone.dropout=0.2", folder="probed")
    assert len(probed.probes) == 4
    plain = newest(run("backbone.dropout=0.2", folder="plain"))["model"]
    for name, value in newest(probed)["model"].items():
        assert torch.equal(value, plain[name]), name


def test_a_backbone_without_batch_norm_has_no_calibrated_reference(run):
    result = run("probes.nearest={size=16, test_share=0.5}", "backbone.norm=false")
    assert set(result.probes) == {"raw pixels", "random weights", "trained"}


def test_gradients_are_scaled_down_to_the_norm_that_the_recipe_bounds(run):
    """With plain SGD the first step moves the weights by the learning rate times the clipped norm."""
    plain = ("epochs=0.3", "optimizer.momentum=0.0", "optimizer.weight_decay=0.0", "optimizer.lr_scaling=none")
    moved = {}
    for name, more in (
        ("free", ()),
        ("bound", ("optimizer.clip_grad_norm=0.01",)),
        ("still", ("optimizer.base_lr=1e-30",)),
    ):
        result = run(*plain, *more, folder=name)
        moved[name] = {key: value for key, value in newest(result)["model"].items() if key.startswith("online")}
        moved[name + " norm"] = result.terms["grad_norm"]
    assert moved["free norm"] == moved["bound norm"] > 0.01, "the norm is reported as it was"

    def far(name):
        return sum((moved[name][key] - value).square().sum() for key, value in trained(moved["still"]).items()).sqrt()

    assert far("free").item() == pytest.approx(0.5 * moved["free norm"], rel=1e-4)
    assert far("bound").item() == pytest.approx(0.5 * 0.01, rel=1e-4)


def trained(state):
    return {key: value for key, value in state.items() if "running" not in key and "batches" not in key}


def test_weight_decay_goes_along_a_cosine_where_it_has_an_end(run):
    result = run("optimizer.weight_decay=0.04", "optimizer.final_weight_decay=0.4", "optimizer.exclude=true")
    groups = newest(result)["optimizer"]["param_groups"]
    wanted = schedules.cosine_schedule(5, 6, 0.04, 0.4)
    assert [group["weight_decay"] for group in groups] == [pytest.approx(wanted), 0.0]


# ------------------------------------------------------------------------------------------------ monitors


@pytest.fixture
def records(plugins):
    """What the plugins are told after each step."""
    seen = []

    def sslkit_step_finished(step, terms):
        seen.append({"step": step, **terms})

    module = types.ModuleType("recorder")
    module.sslkit_step_finished = hookimpl(sslkit_step_finished)
    plugins.add(Owner("recorder", "sslkit-recorder", "1"), module)
    return seen


CLOCKED = ("images_per_s", "waiting", "_ms")
TWO = ("objectives.more={use = 'contrast', weight = 0.5}", "backbone.dropout=0.5")


def timeless(records):
    return [{name: value for name, value in record.items() if not name.endswith(CLOCKED)} for record in records]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_monitors_change_no_bit(run, accumulate):
    sets = (*TWO, f"accumulate={accumulate}")
    on, off = (newest(run(*sets, folder=str(every), monitor_every=every)) for every in (1, 0))
    assert same(on["model"], off["model"])
    assert same(on["optimizer"], off["optimizer"])


def test_monitors_are_there_in_every_step_or_when_due(run, records):
    run(*TWO, monitor_every=4, log_every=5)
    assert [record["step"] for record in records] == [1, 4, 5, 6]
    assert all({"feature_std", "alignment", "uniformity", "target_similarity"} <= record.keys() for record in records)
    slow = {
        "alike.forward_ms", "alike.backward_ms", "alike.gradient_norm", "more.gradient_norm", "conflict.alike.more",
        "rankme.features_n", "rankme.features_d", "rankme.projection_n", "rankme.projection_d",
    }  # fmt: skip
    assert [slow <= record.keys() for record in records] == [True, True, False, False]
    assert [records[1][f"rankme.projection_{end}"] for end in "nd"] == [12, 6]
    assert 1 <= records[1]["rankme.projection"] <= 6
    assert "rankme.projection" not in records[0]


def test_without_measurements_what_is_cheap_stays(run, records):
    run(*TWO, monitor_every=0)
    assert all("feature_std" in record for record in records)
    assert not [name for record in records for name in record if is_measured(name)]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_reports_what_an_uninterrupted_one_does(run, records, stop):
    run(*TWO, "epochs=4", folder="whole", monitor_every=2)
    whole = timeless(records)
    records.clear()
    run(*TWO, "epochs=4", folder="half", monitor_every=2, stop_after=stop)
    run(*TWO, "epochs=4", folder="half", monitor_every=2)
    assert timeless(records) == whole
    assert any("rankme.features" in record for record in whole)


class Together(Objective):
    """Pulls an image's views together, and nothing apart."""

    name = "together"
    requires: ClassVar = {"z": "online.projection.scene: b v d"}

    def __init__(self, dims):
        super().__init__()

    def forward(self, z):
        return -torch.nn.functional.cosine_similarity(z, z.flip(1), dim=-1).mean()


@pytest.fixture
def collapsing(run, plugins, recipe_text):
    """Run a recipe in which all images soon get the same projection."""
    module = types.ModuleType("pull")
    module.sslkit_objectives = hookimpl(lambda: [Together])
    plugins.add(Owner("pull", "sslkit-pull", "1"), module)
    text = recipe_text.replace("[objectives.alike]", "[objectives.together]")
    text = text.replace('predictor = { use = "linear" }', "").replace("epochs = 2", "steps = 170")
    return lambda **hardware: run("optimizer.base_lr=5.0", text=text, **hardware)


def test_a_collapse_is_told_once_with_its_cause_and_written_down(collapsing, records, capsys):
    result = collapsing(log_every=1)
    assert result.state == "finished"
    alike = [record["feature_std"] for record in records]
    assert alike[0] > 0.3 > collapse.SPREAD > max(alike[30:])
    told = capsys.readouterr().err
    assert told.count("collapse at step") == told.count("collapse at step 150: ") == 1
    assert "likely cause: no objective compares images with each other and none reads a predictor's output" in told
    (file,) = result.folder.glob("collapsed-*.json")
    written = json.loads(file.read_text())
    assert (written["step"], written["sign"]) == (150, "constant")
    assert float(written["values"]["feature_std"]) == alike[149]


def test_a_collapse_ends_the_run_when_asked_with_a_checkpoint(collapsing, tmp_path):
    with pytest.raises(DivergedError, match=r"collapse at step 150: .*\n    likely cause: .*\n") as caught:
        collapsing(on_collapse="stop")
    assert caught.value.exit_code == 6
    assert checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))["step"] == 150
    assert RunFolder(tmp_path / "run").status()["state"] == "failed"
    with pytest.raises(DivergedError, match="collapse at step 151"):
        collapsing(on_collapse="stop")
    assert collapsing().state == "finished"


def test_a_recipe_that_keeps_its_features_apart_raises_no_alarm(run, capsys):
    run("epochs=70")
    assert "collapse" not in capsys.readouterr().err


def test_records_are_on_the_disk_before_the_checkpoint_that_claims_their_steps(run, plugins, tmp_path, monkeypatch):
    monkeypatch.setattr("sslkit_logs.buffer.EVERY_S", 3600.0)
    module, seen = types.ModuleType("observer"), []
    metrics, checkpoints = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "checkpoints"

    def steps():
        return [json.loads(line)["step"] for line in metrics.read_text().splitlines()]

    def sslkit_checkpoint_started(run, step):
        seen.append((step, [path.name for path in sorted(checkpoints.glob("step-*.pt"))][-1:]))

    module.sslkit_checkpoint_started = hookimpl(sslkit_checkpoint_started)
    plugins.add(Owner("observer", "sslkit-observer", "1"), module)
    plugins.add(Owner("logs", "sslkit-logs", "1"), sslkit_logs)
    save, written = Checkpointer.save, []

    def watched(self):
        written.append(steps())
        return save(self)

    monkeypatch.setattr(Checkpointer, "save", watched)
    run("probes={}", save_every=2, stop_after=5)
    assert written == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert seen == [(2, []), (4, ["step-00000002.pt"]), (5, ["step-00000004.pt"])]


def test_records_are_on_the_disk_when_a_run_fails(run, plugins, tmp_path, monkeypatch):
    monkeypatch.setattr("sslkit_logs.buffer.EVERY_S", 3600.0)
    plugins.add(Owner("logs", "sslkit-logs", "1"), sslkit_logs)
    monkeypatch.setattr(trainer.Trainer, "check_bad_images", lambda self: self.state.step < 3 or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("probes={}")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("sets", "options", "error"),
    [
        (["precision=16-mixed"], {}, UsageError), ([], {"strategy": "ddd"}, UsageError),
        ([], {"devices": "3"}, UsageError), (["source.absent=true"], {}, DataError),
        (["source.images=3", "last_batch=drop"], {}, DataError),
    ],
)  # fmt: skip
def test_a_run_that_is_refused_leaves_no_folder(run, tmp_path, sets, options, error):
    with pytest.raises(error):
        run(*sets, folder="runs/dots/full-s3", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_leaves_what_was_there(run, tmp_path):
    (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(UsageError, match="needs a GPU, and this run is on the CPU: write precision = .bf16-mixed."):
        run("precision=16-mixed", folder="runs/dots/full-s3")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]
    (tmp_path / "runs" / "mine").mkdir()
    with pytest.raises(UsageError):
        run("precision=16-mixed", folder="runs/mine")
    assert json.loads((tmp_path / "runs" / "mine" / "status.json").read_text())["state"] == "failed"
