"""The probes of a run: raw pixels and random weights before its first step, the trained backbone after its last."""

from __future__ import annotations

from torch import nn

from sslkit.contracts.blame import words
from sslkit.errors import DataError
from sslkit.networks import sharding
from sslkit.probes.evaluate import ProbeEvaluator, ProbeScores
from sslkit.probes.measure import build_backbone
from sslkit.progress import bar
from sslkit.storage import weights
from sslkit.storage.run_folder import PROBES, RunFolder
from sslkit.training.observers import Observers
from sslkit.training.setup import Setup
from sslkit.training.state import TrainState


class RunProbes:
    """Measure a run's backbone, and write scores and weights into its folder.

    Attributes:
        scores: the references of `ProbeEvaluator.measure_references` and "trained" -> scores, as far as they are known.
    """

    def __init__(self, setup: Setup, state: TrainState, folder: RunFolder, observers: Observers) -> None:
        self.setup, self.state, self.folder, self.observers = setup, state, folder, observers
        self.plan, self.fabric = setup.plan, setup.fabric
        self.scores: dict[str, ProbeScores] = {}
        self.evaluator: ProbeEvaluator | None = None
        self.failed: set[str] = set()
        self.is_trained = False

    def _failed(self, name: str, error: Exception) -> None:
        """Say once that a probe failed: that ends no run. Labels that cannot be measured do, before the first step.

        Raises:
            DataError: The images or labels cannot be measured, and nothing has been trained yet.
        """
        if isinstance(error, DataError) and not self.is_trained:
            raise error
        if name not in self.failed:
            self.failed.add(name)
            self.observers.note(f"warning: probe '{name}' failed, and the run goes on: {words(error)}")

    def backbone(self) -> nn.Module:
        """Return the online backbone, whole on rank 0; to be called on all ranks."""
        online = self.setup.network.online.backbone
        if not self.setup.is_sharded:
            return online
        state = sharding.gather_to_cpu(online.state_dict(), self.fabric.is_global_zero)
        if not self.fabric.is_global_zero:
            return online
        backbone = build_backbone(self.plan.probing, self.fabric.device)
        backbone.load_state_dict(state)
        return backbone

    def before(self) -> None:
        """Measure raw pixels and, before the first step, random weights; to be called on all ranks."""
        if not self.plan.probes:
            return
        backbone = self.backbone() if self.state.step == 0 else None
        with self.fabric.rank_zero_first():  # the others wait as long as it takes
            if self.fabric.is_global_zero:
                self._before(backbone)

    def _before(self, backbone: nn.Module | None) -> None:
        self.scores = self.folder.read(PROBES, {})
        with bar() as progress:
            self.evaluator = ProbeEvaluator(self.plan.probing, progress, self._failed)
            self.observers.note(*self.evaluator.new_warnings())
            if backbone is not None:
                # A copy without what training has added to the modules, such as batch norm that waits for other ranks.
                plain = build_backbone(self.plan.probing, self.fabric.device)
                plain.load_state_dict(backbone.state_dict())
                self.scores = self.evaluator.measure_references(plain, self.fabric.device, progress)
                self.folder.write(PROBES, self.scores)
        self.observers.note(*self.evaluator.new_warnings())

    def after(self) -> None:
        """Write the weights of the trained backbone and measure it; to be called on all ranks."""
        backbone = self.backbone()
        if not self.fabric.is_global_zero:
            return
        about = {"backbone": self.plan.backbone.component.id, "step": str(self.state.step), "format": "pt"}
        weights.save(self.folder.weights, dict(backbone.state_dict()), about)
        if self.evaluator:
            self.is_trained, self.failed = True, set()
            with bar() as progress:
                trained = self.evaluator.measure_backbone(backbone, self.fabric.device, progress)
            self.scores = self.scores | {"trained": trained}
            self.observers.note(*self.evaluator.new_warnings())
            self.folder.write(PROBES, self.scores)
