"""Online and target networks: `StepModule.forward` is the forward pass of a step."""

from sslkit.networks.step_module import StepModule

__all__ = ["StepModule"]
