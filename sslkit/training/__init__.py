"""Train a plan: the loop, the step, and what keeps a long run safe."""
