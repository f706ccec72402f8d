"""The parts of the rehearsal, in the order in which they run. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part of the rehearsal.

    Attributes:
        name: As `--parts` takes it.
        module: Module of `gpu.parts` whose function `run` is the part.
        what: One line for `--list` and the page.
        share: Share of the time, relative to the other parts, on a GPU.
        cpu_share: The same on a CPU.
        needs_gpu: Whether the part is skipped without a GPU.
    """

    name: str
    module: str
    what: str
    share: float
    cpu_share: float
    needs_gpu: bool = False


ALL = (
    Part("tests", "tests", "the tests that only a GPU can run, tests/sslkit/test_on_gpu.py", 6, 2),
    Part("float32", "agreement", "the same steps on CPU and GPU in float32, without TF32", 2, 4),
    Part("bf16", "agreement", "the same steps in bfloat16, beside float32 on the CPU", 2, 3),
    Part("step", "step", "a BYOL step beside bare passes of the same networks", 4, 3),
    Part("memory", "memory", "peak memory of a UniVIP step, plain and with --checkpoint-activations", 2, 3),
    Part("loader", "loader", "views per second from JPEG files, beside what the step takes", 2, 3),
    Part("compile", "variants", "steps with --compile beside plain ones", 4, 6),
    Part("cuda-graph", "variants", "steps with --cuda-graph beside plain ones", 2, 1, needs_gpu=True),
    Part("ablation", "ablation", "two arms through `sslkit ablate`", 3, 10),
    Part("learning", "learning", "UniVIP on built-in scenes in the time that is left, with its curve", 10, 7),
)  # fmt: skip
"""Time that a part leaves goes to the parts after it."""
BY_NAME = {part.name: part for part in ALL}
