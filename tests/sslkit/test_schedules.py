"""Schedules against their formulas, restated here, and against torch's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR

from sslkit.schedules import LearningRate, cosine_schedule, ramp, target_momentum

STEPS = 1000
PLACES = [0, 1, STEPS // 2, STEPS - 1]


@pytest.mark.parametrize("step", PLACES)
def test_target_momentum_is_the_formula_of_byol(step: int) -> None:
    expected = 1 - (1 - 0.99) * (math.cos(math.pi * step / STEPS) + 1) / 2
    assert target_momentum(step, STEPS, 0.99) == pytest.approx(expected, abs=1e-15)


def test_target_momentum_has_known_values_and_any_end() -> None:
    assert target_momentum(0, STEPS, 0.996) == pytest.approx(0.996, abs=1e-15)
    assert target_momentum(500, STEPS, 0.99) == pytest.approx(0.995, abs=1e-15)
    assert target_momentum(STEPS, STEPS, 0.99) == 1.0
    assert target_momentum(STEPS, STEPS, 0.9, 0.95) == 0.95
    assert [target_momentum(step, 10, 0.99, 0.99) for step in range(11)] == pytest.approx([0.99] * 11)


@pytest.mark.parametrize("step", PLACES)
def test_target_momentum_along_a_line_is_that_of_i_jepa(step: int) -> None:
    """I-JEPA: ema[0] + k (ema[1] - ema[0]) / K, of its list of momenta."""
    line = [0.996 + k * (1.0 - 0.996) / STEPS for k in range(STEPS + 1)]
    assert target_momentum(step, STEPS, 0.996, 1.0, "linear") == pytest.approx(line[step], abs=1e-15)


def test_target_momentum_along_a_line_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.9, 0.96, total_iters=40)
    for step in range(60):  # beyond the last step, the end
        expected = scheduler.get_last_lr()[0]
        assert target_momentum(step, 40, 0.9, 0.96, "linear") == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        scheduler.step()


@given(start=st.floats(0, 1), end=st.floats(0, 1), steps=st.integers(1, 300))
def test_target_momentum_of_each_schedule_has_its_ends(start: float, end: float, steps: int) -> None:
    for schedule in ("cosine", "linear"):
        assert target_momentum(0, steps, start, end, schedule) == pytest.approx(start, abs=1e-15)
        assert target_momentum(steps, steps, start, end, schedule) == end
    assert {target_momentum(step, steps, start, end, "constant") for step in range(steps + 2)} == {start}


def test_target_momentum_goes_along_the_cosine_unless_asked() -> None:
    values = [target_momentum(step, 20, 0.97, 0.999) for step in range(20)]
    assert values == [target_momentum(step, 20, 0.97, 0.999, "cosine") for step in range(20)]
    assert values == [cosine_schedule(step, 20, 0.97, 0.999) for step in range(20)]


@pytest.mark.parametrize("step", PLACES)
def test_cosine_agrees_with_torch(step: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=0.01)
    values = []
    for _ in range(STEPS):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert cosine_schedule(step, STEPS, 0.4, 0.01) == pytest.approx(values[step], rel=1e-9)


@pytest.mark.parametrize("step", [0, 1, 39, 40, 41, 400, 799])
def test_orl_counts_the_phase_from_the_start(step: int) -> None:
    """mmcv: the warm-up subtracts (1 - k / n) (1 - ratio) of the rate that the cosine gives at that step."""
    regular = 0.4 * (1 + math.cos(math.pi * step / 800)) / 2
    expected = regular * (1 - (1 - step / 40) * (1 - 1e-4)) if step < 40 else regular
    lr = LearningRate(0.4, 800, warmup=40, warmup_start_ratio=1e-4, decay_from="start")
    assert lr(step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("step", [0, 1, 99, 100, 101, 550, 999])
def test_byol_starts_the_cosine_after_the_warmup(step: int) -> None:
    warm = 4.8 * step / 100
    decayed = 4.8 * 0.5 * (1 + math.cos(math.pi * (step - 100) / 900))
    lr = LearningRate(4.8, 1000, warmup=100)
    assert lr(step) == pytest.approx(warm if step < 100 else decayed, rel=1e-12)


def test_the_two_conventions_differ_at_the_peak_and_agree_without_warmup() -> None:
    start, after = (LearningRate(1.0, 800, 40, decay_from=kind) for kind in ("start", "warmup"))
    assert after(40) == 1.0
    assert start(40) == pytest.approx((1 + math.cos(math.pi / 20)) / 2)
    bare = [LearningRate(0.3, 50, decay_from=kind) for kind in ("start", "warmup")]
    assert [bare[0](step) for step in range(50)] == [bare[1](step) for step in range(50)]


def test_warmup_is_linear_per_step() -> None:
    lr = LearningRate(0.4, 1000, warmup=10, warmup_start_ratio=0.1)
    rises = [lr(step + 1) - lr(step) for step in range(10)]
    assert rises == pytest.approx([0.4 * 0.9 / 10] * 10)
    assert lr(0) == pytest.approx(0.04)


@pytest.mark.parametrize("kind", ["start", "warmup"])
def test_final_holds_from_the_end_on(kind: str) -> None:
    lr = LearningRate(0.4, 100, 10, final=0.004, decay_from=kind)  # type: ignore[arg-type]
    assert lr(100) == lr(10_000) == 0.004
    assert 0.004 < lr(99) < 0.0042


@pytest.mark.parametrize("kind", ["start", "warmup"])
def test_a_warmup_longer_than_the_run_never_ends(kind: str) -> None:
    lr = LearningRate(1.0, 5, warmup=10, decay_from=kind)  # type: ignore[arg-type]
    assert all(0 <= lr(step) <= 0.5 for step in range(5))


@given(
    step=st.integers(0, 500), steps=st.integers(1, 400), warmup=st.integers(0, 300),
    ratio=st.floats(0, 1), final=st.floats(0, 1),
)  # fmt: skip
def test_learning_rate_stays_between_its_ends(step: int, steps: int, warmup: int, ratio: float, final: float) -> None:
    lr = LearningRate(1.0, steps, warmup, ratio, final)(step)
    assert min(ratio, final) - 1e-12 <= lr <= 1 + 1e-12


def test_ramp_of_no_steps_is_at_its_end() -> None:
    assert ramp(0, 0, 0.2, 0.7) == 0.7
