"""Schedules: pure functions of the optimizer step. Steps count from 0, and a value holds *for* its step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


def ramp(step: int, steps: int, start: float, end: float) -> float:
    """Interpolate linearly from `start` at step 0 to `end` at step `steps`, and stay there."""
    if step >= steps:
        return end
    return start + (end - start) * step / steps


def cosine_schedule(
    step: int, steps: int, start: float, end: float, warmup: int = 0, warmup_start: float = 0.0
) -> float:
    """Go from `start` to `end` along half a cosine, which begins where a linear warm-up ends.

        end + (start - end) (1 + cos(pi (step - warmup) / (steps - warmup))) / 2

    The last step, `steps - 1`, is one step before `end`, as in `torch.optim.lr_scheduler.CosineAnnealingLR`.

    Args:
        step: The step about to be taken, from 0; from `steps` on the value is `end`.
        steps: Steps of the whole schedule, including the warm-up.
        start: Value at the start of the cosine.
        end: Value at the end of the cosine.
        warmup: Steps of the warm-up.
        warmup_start: Value of the warm-up at step 0; it reaches `start` at step `warmup`.
    """
    if step < warmup:
        return ramp(step, warmup, warmup_start, start)
    if step >= steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


@dataclass(frozen=True)
class LearningRate:
    """The learning rate schedule: a linear warm-up, then a cosine.

    Two conventions are in use, which differ in the phase of the cosine:

    - `decay_from = "warmup"`: the cosine starts where the warm-up ends (DeepMind's BYOL).
    - `decay_from = "start"`: the cosine starts at step 0, and the warm-up is a factor on it (ORL, mmcv). With 4 of 800
      epochs the peak is lower by a factor of 0.99994.

    Attributes:
        base: The peak, after scaling with the batch size.
        steps: Optimizer steps of the whole run.
        warmup: Steps of the warm-up; the first has `warmup_start_ratio` of the learning rate.
        warmup_start_ratio: Share of the learning rate at step 0 of a warm-up.
        final: Learning rate at the end of the cosine.
        decay_from: Where the cosine starts.
    """

    base: float
    steps: int
    warmup: int = 0
    warmup_start_ratio: float = 0.0
    final: float = 0.0
    decay_from: Literal["warmup", "start"] = "warmup"

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step about to be taken, counted from 0."""
        if self.decay_from == "start":
            factor = ramp(step, self.warmup, self.warmup_start_ratio, 1.0)
            return factor * cosine_schedule(step, self.steps, self.base, self.final)
        lowest = self.warmup_start_ratio * self.base
        return cosine_schedule(step, self.steps, self.base, self.final, self.warmup, lowest)


def target_momentum(
    step: int, steps: int, start: float, end: float = 1.0, schedule: Literal["cosine", "linear", "constant"] = "cosine"
) -> float:
    """Return the target momentum of step k, from 0, of K steps.

        cosine      m_1 - (m_1 - m_0) (cos(pi k / K) + 1) / 2
        linear      m_0 + (m_1 - m_0) k / K
        constant    m_0

    Sources:
        cosine: BYOL (Grill et al. 2020, section 3.3), with m_1 = 1; here for any end. Also DINO and MoCo v3.
        linear: I-JEPA (Assran et al. 2023, appendix A.1), from 0.996 to 1. data2vec (Baevski et al. 2022) reaches the
            end after a part of the steps; here step K would.
        constant: MoCo (He et al. 2020, section 3.2, equation 2), with 0.999.

    Args:
        step: k, the optimizer step just taken, from 0.
        steps: K, optimizer steps of the whole run.
        start: m_0, the momentum at step 0.
        end: m_1, the momentum that it approaches; a constant schedule does not read it.
        schedule: The formula.
    """
    if schedule == "constant":
        return start
    return ramp(step, steps, start, end) if schedule == "linear" else cosine_schedule(step, steps, start, end)
