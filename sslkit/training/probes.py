"""The probes of a run: of raw pixels and random weights before its first step, of what was trained after its last."""

from __future__ import annotations

from torch import nn

from sslkit.networks import sharding
from sslkit.probes.evaluate import ProbeEvaluator, ProbeScores
from sslkit.progress import bar
from sslkit.seeds import torch_seeded
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training.observers import Observers
from sslkit.training.step import Stepper

FILE = "probes.json"


class RunProbes:
    """Measures a run's backbone, and writes figures and weights into its folder.

    Attributes:
        figures: "raw pixels", "random weights" and "trained" -> figures, as far as they are known.
    """

    def __init__(self, stepper: Stepper, folder: RunFolder, observers: Observers) -> None:
        self.stepper, self.folder, self.observers = stepper, folder, observers
        self.plan, self.fabric = stepper.plan, stepper.fabric
        self.figures: dict[str, ProbeScores] = {}
        self.probing: ProbeEvaluator | None = None

    def backbone(self) -> nn.Module:
        """Return the online backbone, whole in the first process; to be called in all of them."""
        own = self.stepper.network.online.backbone
        if not self.stepper.sharded:
            return own
        state = sharding.whole(own.state_dict(), self.fabric.is_global_zero)
        if not self.fabric.is_global_zero:
            return own
        with torch_seeded(self.plan.recipe.seed, "backbone"):
            made: nn.Module = self.plan.backbone.make()
        made.load_state_dict(state)
        return made.to(self.fabric.device)

    def before(self) -> None:
        """Measure raw pixels and, before the first step, random weights; to be called in all processes."""
        if not self.plan.probes:
            return
        backbone = self.backbone() if self.stepper.step == 0 else None
        with self.fabric.rank_zero_first():  # the others wait as long as it takes
            if self.fabric.is_global_zero:
                self._before(backbone)

    def _before(self, backbone: nn.Module | None) -> None:
        self.figures = self.folder.read(FILE, {})
        with bar() as progress:
            self.probing = ProbeEvaluator(self.plan.measurement, progress)
            self.observers.note(*self.probing.news())
            if backbone is not None:
                self.figures = self.probing.of_pixels_and("random weights", backbone, self.fabric.device, progress)
                self.folder.write(FILE, self.figures)
        self.observers.note(*self.probing.news())

    def after(self) -> None:
        """Write the weights of the trained backbone and measure it; to be called in all processes."""
        backbone = self.backbone()
        if not self.fabric.is_global_zero:
            return
        described = {"backbone": self.plan.backbone.component.id, "step": str(self.stepper.step), "format": "pt"}
        checkpoint.save_weights(self.folder.weights, dict(backbone.state_dict()), described)
        if self.probing:
            with bar() as progress:
                self.figures = self.figures | {
                    "trained": self.probing.of_backbone(backbone, self.fabric.device, progress)
                }
            self.observers.note(*self.probing.news())
            self.folder.write(FILE, self.figures)
