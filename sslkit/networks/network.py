"""A backbone with its heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sslkit.contracts.networks import refuse_own_backward, run_backbone, run_head
from sslkit.planning.plan import ConfiguredComponent, EmbeddingKey, HeadPlan
from sslkit.plugins import Component
from sslkit.seeds import torch_seeded


class Network(nn.Module):
    """A backbone with its named projectors and predictors."""

    def __init__(self, backbone: nn.Module, component: Component, heads: Mapping[str, HeadPlan], seed: int) -> None:
        super().__init__()
        self.component, self.heads = component, heads
        self.backbone = backbone
        self.projectors = nn.ModuleDict()
        self.predictors = nn.ModuleDict()
        for name, head in heads.items():
            with torch_seeded(seed, "heads", name, "projector"):
                self.projectors[name] = head.projector.make({"d": head.in_dim})
            if head.predicts and head.predictor:
                with torch_seeded(seed, "heads", name, "predictor"):
                    self.predictors[name] = head.predictor.make({"d": head.dim})

    def parts(self) -> list[tuple[Component, nn.Module]]:
        """Return every projector, then every predictor, with its component."""
        projectors = [(self.heads[name].projector, module) for name, module in self.projectors.items()]
        predictors = [(self.heads[name].predictor, module) for name, module in self.predictors.items()]
        return [(head.component, module) for head, module in [*projectors, *predictors] if head]

    def giver(self, key: EmbeddingKey) -> Component:
        """Return the component that computes an embedding."""
        head = self.heads.get(key.head)
        last = head and (head.predictor if key.kind == "prediction" else head.projector)
        return last.component if last else self.component

    def forward(self, x: Tensor, keys: Sequence[EmbeddingKey], first: bool = False) -> list[Tensor]:
        """Return the embeddings of images (n 3 h w) under the keys, each (n ...); `first` as in `run_backbone`."""
        features = run_backbone(self.component, self.backbone, x, first)
        if first:
            refuse_own_backward(self.component, self)
        heads = dict.fromkeys(key.head for key in keys if key.head)  # each once: batch norm counts its forward passes
        projections = {head: self._project(head, features, first) for head in heads}
        return [self._embedding(key, features, projections, first) for key in keys]

    def _project(self, head: str, features: Mapping[str, Tensor], first: bool) -> Tensor:
        rows = features[self.heads[head].input_kind]
        return self._run(self.heads[head].projector, self.projectors[head], rows, self.component, first)

    def _embedding(
        self, key: EmbeddingKey, features: Mapping[str, Tensor], projections: Mapping[str, Tensor], first: bool
    ) -> Tensor:
        if key.kind == "prediction":
            head = self.heads[key.head]
            giver = head.projector.component
            return self._run(head.predictor, self.predictors[key.head], projections[key.head], giver, first)
        return projections[key.head] if key.head else features[key.kind]

    def _run(
        self, plan: ConfiguredComponent | None, head: nn.Module, x: Tensor, giver: Component, first: bool
    ) -> Tensor:
        assert plan
        output = run_head(plan.component, head, x, giver, first)
        if first:
            refuse_own_backward(plan.component, self)
        return output
