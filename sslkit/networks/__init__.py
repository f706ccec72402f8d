"""Online and target networks, and what they cost: one forward pass of a step is `StepModule.forward`."""

from sslkit.networks.step_module import StepModule

__all__ = ["StepModule"]
