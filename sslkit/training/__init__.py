"""Train a plan: the loop, the step, checkpoints, and the safety of long runs."""
