"""A trial times real steps in every mode, bounded in time, and leaves no trace."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from sslkit.networks import StepModule
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.training import trial
from sslkit.training.trial import BFLOAT16, FLOAT32, PLAIN, Mode, NoOutcomeError, Outcome, Trial, noise, run_trial

LAST = FLOAT32[1]
HALF, HALF_CONTIGUOUS = BFLOAT16


@pytest.fixture
def plan(plugins, recipe_text):
    def plan(*sets):
        made, problems = recipe_file.check_structure(recipe_file.parse(recipe_text, "dots", "dots.toml", sets))
        assert made, problems
        return make_plan(made, plugins)[0]

    return plan


# --------------------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    ("seconds", "choice", "reason"),
    [
        ({PLAIN: 1.0, LAST: 0.98, HALF: 0.98}, PLAIN, "bf16-mixed is not 3 % faster here"),
        ({PLAIN: 1.0, LAST: 0.9, HALF: 0.88}, LAST, "bf16-mixed is not 3 % faster here"),
        ({PLAIN: 1.0, LAST: 0.9, HALF: 0.6}, HALF, "50 % faster here than 32-true"),
        ({PLAIN: 1.0, LAST: 1.3, HALF: 1.12, HALF_CONTIGUOUS: 1.06}, PLAIN, "6 % faster here than bf16-mixed"),
        ({PLAIN: 1.0, LAST: 1.3, HALF: 1.12, HALF_CONTIGUOUS: 0.9}, HALF_CONTIGUOUS, "11 % faster here than 32-true"),
        ({PLAIN: 1.0, LAST: 0.8}, LAST, "25 % faster here than contiguous"),
        ({PLAIN: 1.0, HALF: 0.4}, HALF, "2.5 times as fast here as 32-true"),
        ({PLAIN: 1.0}, PLAIN, "nothing else can be computed here"),
    ],
)
def test_another_mode_must_be_clearly_faster_than_float32(seconds, choice, reason):
    outcome = Outcome(seconds, 2)
    assert (outcome.choice, outcome.reason) == (choice, reason)


def test_seconds_per_image_are_those_of_the_faster_format():
    outcome = Outcome({PLAIN: 1.0, LAST: 0.8, HALF: 0.4, HALF_CONTIGUOUS: 0.2}, 4)
    assert outcome.per_image == {"32-true": 0.2, "bf16-mixed": 0.05}


# ---------------------------------------------------------------------------------------------------- the steps


def test_every_mode_takes_real_steps_in_its_precision_and_format(plan, monkeypatch):
    seen = []
    forward = StepModule.forward

    def watched(self, batch, measure=False):
        output = forward(self, batch, measure)
        weight = self.online.backbone.net[0].weight
        last = weight.is_contiguous(memory_format=torch.channels_last)
        dtype = self.online.projectors["main"](torch.randn(2, 8)).dtype
        seen.append((dtype, last, len(batch["index"])))
        return output

    monkeypatch.setattr(StepModule, "forward", watched)
    monkeypatch.setattr(trial, "BUSY", 1e9)
    outcome = run_trial(plan(), (*FLOAT32, *BFLOAT16))
    assert set(outcome.seconds) <= {*FLOAT32, *BFLOAT16}
    assert PLAIN in outcome.seconds
    assert outcome.images == 4, "a micro-batch"
    counted = [(dtype, last) for dtype, last, images in seen if images == 4]
    assert set(counted) == {
        (torch.float32, False),
        (torch.float32, True),
        (torch.bfloat16, True),
        (torch.bfloat16, False),
    }


def test_weights_follow_the_plans_memory_format_and_losses_agree(plan):
    losses = {}
    for memory_format in ("channels-last", "contiguous"):
        made = plan("precision=auto", "auto_precision=32-true", f"auto_memory_format={memory_format}")
        step = StepModule(made)
        weight = step.online.backbone.net[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels-last")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            losses[memory_format] = step(noise(made, 4)).loss.item()
    assert losses["contiguous"] == pytest.approx(losses["channels-last"], rel=1e-4)


def test_noise_has_the_views_of_the_plan_laid_out_as_the_loaders(plan):
    batch = noise(plan("augment.scene.0.size=32"), 3)
    pixels = batch["pixels.scene.online"]
    assert pixels.shape == (3, 2, 3, 32, 32)
    assert pixels.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_a_trial_draws_no_random_number_and_leaves_no_trace(plan):
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    states = torch.random.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    made = plan("backbone.dropout=0.5")
    before, grad = repr(made), torch.is_grad_enabled()
    Trial(made, FLOAT32)  # warms up what a process makes once
    torch.random.set_rng_state(states[0])
    with suppress(NoOutcomeError):  # on a busy machine; what was computed must not leave a trace either
        run_trial(made, (*FLOAT32, *BFLOAT16))
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert str(np.random.get_state(legacy=False)) == str(states[1])
    assert random.getstate() == states[2]
    assert (repr(made), torch.is_grad_enabled()) == (before, grad)


# ------------------------------------------------------------------------------------------------- bounded in time


class Clock:
    """A clock that steps move, instead of time."""

    def __init__(self, monkeypatch, per_image, others=0.0):
        self.now = self.busy = 0.0
        self.steps = []
        monkeypatch.setattr(trial.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(trial.time, "thread_time", lambda: self.busy)

        def step(run, mode, batch, optimizer):
            images = len(batch["index"])
            seconds = per_image * images * (0.5 if mode.precision == "bf16-mixed" else 1.0)
            self.now, self.busy = self.now + seconds * (1 + others), self.busy + seconds
            self.steps.append((mode, images))
            return seconds

        monkeypatch.setattr(Trial, "step", step)


@pytest.mark.parametrize(("per_image", "images"), [(1e-4, 256), (1e-3, 256), (0.01, 50), (0.05, 8), (0.2, 2), (0.3, 2)])
def test_steps_have_as_many_images_as_fit_and_a_trial_takes_about_five_seconds(plan, monkeypatch, per_image, images):
    clock = Clock(monkeypatch, per_image)
    outcome = Trial(plan("batch_size=256"), (*FLOAT32, *BFLOAT16)).outcome()
    assert outcome.images == images
    assert clock.now < 6
    assert outcome.choice == HALF
    assert {mode for mode, count in clock.steps if count == images} == {*FLOAT32, *BFLOAT16}


def test_a_large_network_is_not_timed(plan, monkeypatch):
    clock = Clock(monkeypatch, 0.6)
    with pytest.raises(NoOutcomeError, match=r"^a step of 2 images takes 1\.2 s$"):
        Trial(plan("batch_size=64"), FLOAT32).outcome()
    assert len(clock.steps) == 1


@pytest.mark.parametrize("per_image", [0.001, 0.2])
def test_on_a_busy_machine_there_is_no_outcome(plan, monkeypatch, per_image):
    clock = Clock(monkeypatch, per_image, others=9.0)
    with pytest.raises(NoOutcomeError, match="^other processes keep this machine busy$"):
        Trial(plan("batch_size=64"), (*FLOAT32, *BFLOAT16)).outcome()
    assert clock.now < trial.LIMIT_S + 2 * 2 * 0.4 * 10


def test_a_hopeless_mode_is_timed_in_one_round_only(plan, monkeypatch):
    clock = Clock(monkeypatch, 0.001)
    Trial(plan(), (*FLOAT32, HALF)).outcome()
    assert [mode for mode, images in clock.steps if images == 4].count(LAST) == 2, "float32 takes twice as long"


# ------------------------------------------------------------------------------------------------------- failures


def test_a_mode_that_fails_is_left_out(plan, monkeypatch):
    monkeypatch.setattr(trial, "BUSY", 1e9)
    step = Trial.step

    def failing(run, mode, batch, optimizer):
        if mode == HALF:
            raise RuntimeError("not implemented for BFloat16")
        return step(run, mode, batch, optimizer)

    monkeypatch.setattr(Trial, "step", failing)
    assert set(run_trial(plan(), (PLAIN, HALF)).seconds) == {PLAIN}


def test_steps_that_fail_on_noise_have_no_outcome(plan):
    made = plan("backbone.multiple=5")
    with pytest.raises(NoOutcomeError, match="^steps on noise fail"):
        run_trial(made, FLOAT32)


def test_bfloat16_is_guarded_and_float32_is_not(plan):
    run = Trial(plan(), FLOAT32)
    convolution = run.network.online.backbone.net[0]
    for mode in (HALF, PLAIN, HALF_CONTIGUOUS, LAST):
        with run.computing_in(mode):
            assert ("forward" in vars(convolution) and hasattr(convolution.forward, "func")) == (mode in BFLOAT16)
    assert str(Mode("32-true", "channels-last")) == "32-true, channels last"
