"""Online probes: measure the backbone during training, on a few crops, without changing a bit of the run."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslkit.contracts.blame import words
from sslkit.contracts.scores import is_rate
from sslkit.errors import DataError
from sslkit.networks import sharding
from sslkit.planning.plan import Plan
from sslkit.probes.evaluate import RANDOM_WEIGHTS, RAW_PIXELS, ProbeEvaluator, ProbeScores
from sslkit.probes.measure import build_backbone
from sslkit.probes.noise import sample_count
from sslkit.progress import bar
from sslkit.seeds import seed_all
from sslkit.storage.run_folder import ONLINE_PROBES, PROBE_TERM, RunFolder
from sslkit.training.early_verdict import Baseline
from sslkit.training.observers import Observers
from sslkit.training.online_scores import ScoreBoard
from sslkit.training.setup import Setup
from sslkit.training.state import TrainState

ONLINE_LIMIT = 2000
"""Most crops of each source that an online probe measures on."""
MEMORY = 2**28
"""Bytes that the pixels of all online probes may take together; with larger crops there are fewer of them."""
MAIN_METRICS = ("top1", "map")
"""The metrics that are recorded; a probe with neither records its first rate."""

Baselines = dict[str, dict[str, float]]
"""Probe -> features -> score."""


class OnlineProbes:
    """Measure a run's backbone at fixed steps.

    A copy of the backbone is measured, so that modes, buffers and gradients of the trained one stay as they are.

    Args:
        setup: The networks, optimizer and batches of the run.
        state: The state of the run.
        folder: The run's folder.
        observers: Where warnings and progress are shown.

    Attributes:
        every: Probe -> optimizer steps between its measurements; empty when there is nothing to measure.
        baselines: Term -> what it is compared with.
    """

    def __init__(self, setup: Setup, state: TrainState, folder: RunFolder, observers: Observers) -> None:
        self.setup, self.state, self.folder, self.observers = setup, state, folder, observers
        self.plan, self.fabric = setup.plan, setup.fabric
        self.every = steps_between(self.plan, setup.options.probe_every)
        self.baselines: dict[str, Baseline] = {}
        self.metrics: dict[str, str] = {}
        self._evaluator: ProbeEvaluator | None = None
        self._copy: nn.Module | None = None
        self._board: ScoreBoard | None = None
        self._reported: set[str] = set()

    def before(self, evaluator: ProbeEvaluator | None) -> None:
        """Choose crops and measure the baselines, or read them from the folder; to be called on all ranks.

        Probes without baselines, as they failed, are not measured.

        Args:
            evaluator: Evaluator of all probes of the run; needed on rank 0 only.
        """
        if self.setup.options.probe_every and not self.every:
            self.observers.note("note: --probe-every: the recipe has no probes")
        if self.every:
            kept = self._on_first_rank(lambda: self._before(evaluator))
            self.every = {name: every for name, every in self.every.items() if name in kept}

    def measure(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Measure the probes that are due at this step; to be called on all ranks.

        Args:
            terms: Losses and monitors of the step.

        Returns:
            Term -> score; empty when none is due.
        """
        due = self.due(self.state.step)
        if not due:
            return {}
        weights = self._weights()
        scores = self._on_first_rank(lambda: self._measure(due, weights))
        images = self.state.step * self.setup.recipe.batch_size
        warning = self.state.verdict.update(self.state.step, images, scores, self.baselines, terms)
        if warning:
            self.observers.note(f"warning: {warning}")
        return scores

    def due(self, step: int) -> list[str]:
        """Return the probes to measure at a step: at multiples of their `every`, and at the last step."""
        return [name for name, every in self.every.items() if step % every == 0 or step == self.setup.steps]

    # ------------------------------------------------------------------------------------------------ on rank 0

    def _on_first_rank(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Do some work on rank 0 while the others wait, and return its result on all of them.

        If it fails, the run goes on without online probes.
        """
        done: dict[str, float] | None = {}
        with self.fabric.rank_zero_first():  # the others wait as long as it takes
            if self.fabric.is_global_zero:
                try:
                    with unchanged_generators(self.setup.device):
                        done = work()
                except Exception as error:  # a measurement must not end the run
                    done = None
                    reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
                    self.observers.note(f"warning: online probes stop here, and the run goes on: {reason}")
        if self.fabric.world_size > 1:
            done = self.fabric.broadcast(done)
        if done is None:
            self.every = {}
        return done or {}

    def _before(self, evaluator: ProbeEvaluator | None) -> dict[str, float]:
        assert evaluator is not None
        limit, lowered = crop_limit(self.plan, self.every)
        if lowered:
            self.observers.note(
                f"online probes take {limit} crops of each source, as {ONLINE_LIMIT} would take more than "
                f"{MEMORY // 2**20} MiB"
            )
        self._evaluator = evaluator.part(self.every, limit)
        self._evaluator.failed = self._failed
        self._copy = build_backbone(self.plan.probing, self.setup.device)
        known = self._known()
        entries = {name: {"every": every, **self._crops(name)} for name, every in self.every.items()}
        new = [name for name, entry in entries.items() if not _is_known(entry, known.get(name, {}))]
        measured = self._measure_baselines(new) if new else {}
        entries = {name: entry for name, entry in entries.items() if name in measured or name not in new}
        for name, entry in entries.items():
            source = measured if name in measured else known
            entry |= {key: source[name][key] for key in ("metric", "samples", "baselines")}
        self.folder.write(ONLINE_PROBES, {"images_per_step": self.setup.recipe.batch_size, "probes": entries})
        self._show(entries)
        return dict.fromkeys(entries, 0.0)

    def _known(self) -> dict[str, dict[str, Any]]:
        """Return what the folder records of each probe; nothing if the file is damaged."""
        try:
            known = self.folder.read(ONLINE_PROBES, {"probes": {}})["probes"]
            return {name: entry for name, entry in known.items() if isinstance(entry["baselines"], dict)}
        except (DataError, LookupError, TypeError, AttributeError):
            file = self.folder.path / ONLINE_PROBES
            self.observers.note(f"{file} is damaged: the baselines of online probes are measured again")
            return {}

    def _crops(self, name: str) -> dict[str, int]:
        assert self._evaluator is not None
        crops = self._evaluator.crops[name]
        test = int(crops.test.sum())
        return {"train_crops": len(crops) - test, "test_crops": test}

    def _measure_baselines(self, names: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return each probe's main metric, the samples behind it, and its scores of features that were not trained."""
        assert self._evaluator is not None
        assert self._copy is not None
        part = self._evaluator.part(names)
        with bar() as progress:
            scores = part.measure_references(self._copy, self.setup.device, progress)
        metrics = {name: main_metric(values) for name, values in scores[RANDOM_WEIGHTS].items()}
        return {
            name: {
                "metric": metric,
                "samples": sample_count(metric, scores[RANDOM_WEIGHTS][name]),
                "baselines": {
                    kind: values[name][metric] for kind, values in scores.items() if metric in values.get(name, {})
                },
            }
            for name, metric in metrics.items()
        }

    def _show(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the baselines, and hand them to the display."""
        for name, entry in entries.items():
            self.metrics[name] = entry["metric"]
            value, kind = max((value, kind) for kind, value in entry["baselines"].items() if kind != RAW_PIXELS)
            self.baselines[term(name, entry["metric"])] = Baseline(value, kind, entry["samples"])
        newest = {name: value for name, value in self.state.verdict.newest.items() if name in self.baselines}
        self._board = ScoreBoard({name: baseline.value for name, baseline in self.baselines.items()}, newest)
        if self.observers.display:
            self.observers.display.online = self._board

    def _measure(self, names: Collection[str], weights: Mapping[str, Tensor]) -> dict[str, float]:
        assert self._evaluator is not None
        assert self._copy is not None
        assert self._board is not None
        with self._board.measuring():
            seed_all(self.plan.recipe.seed, "online probes", self.state.step)
            self._copy.load_state_dict(weights)
            scores: ProbeScores = self._evaluator.part(names).measure_backbone(self._copy, self.setup.device)
        metrics = {name: self.metrics[name] for name in scores if self.metrics[name] in scores[name]}
        return {term(name, metric): scores[name][metric] for name, metric in metrics.items()}

    def _failed(self, name: str, error: Exception) -> None:
        """Say once that a probe failed: the others are measured, and the run goes on."""
        if name not in self._reported:
            self._reported.add(name)
            self.observers.note(f"warning: online probe '{name}' failed, and the run goes on: {words(error)}")

    def _weights(self) -> Mapping[str, Tensor]:
        """Return the online backbone's weights, whole on rank 0; to be called on all ranks."""
        weights: dict[str, Tensor] = self.setup.network.online.backbone.state_dict()
        if self.setup.is_sharded:
            weights = sharding.gather_to_cpu(weights, self.fabric.is_global_zero)
        return weights


def steps_between(plan: Plan, default: int | None) -> dict[str, int]:
    """Return the optimizer steps between measurements of each online probe.

    Args:
        plan: The plan with the probes.
        default: Steps for probes that do not say; None leaves them out.
    """
    every = {name: item.table.every or default for name, item in plan.probes.items()}
    return {name: steps for name, steps in every.items() if steps}


def crop_limit(plan: Plan, names: Collection[str]) -> tuple[int, bool]:
    """Return the most crops of each source for online probes, and whether memory lowered it below `ONLINE_LIMIT`."""
    sets = {item.shared: item for item in (plan.probes[name] for name in names)}
    pixels = sum(3 * item.table.size**2 * (2 if item.test_source else 1) for item in sets.values())
    limit = min(ONLINE_LIMIT, MEMORY // pixels)
    return limit, limit < ONLINE_LIMIT


def main_metric(scores: Mapping[str, float]) -> str:
    """Return the metric of a probe that is recorded."""
    return next((name for name in MAIN_METRICS if name in scores), next(filter(is_rate, scores), next(iter(scores))))


def term(probe: str, metric: str) -> str:
    """Return the name of an online score among a step's terms."""
    return f"{PROBE_TERM}{probe}.{metric}"


def _is_known(entry: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Return whether baselines in the folder were measured on the same number of crops."""
    complete = {"metric", "samples", "baselines"} <= known.keys()
    return complete and all(known.get(key) == entry[key] for key in ("train_crops", "test_crops"))


@contextmanager
def unchanged_generators(device: torch.device) -> Iterator[None]:
    """Restore the global random generators after the block: torch's on the CPU and the device, numpy's and Python's."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    on_device = {} if device.type == "cpu" else {"devices": [device.index or 0], "device_type": device.type}
    with torch.random.fork_rng(**on_device or {"devices": []}):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
