"""Files of a run: its folder, its checkpoints, and weights."""
