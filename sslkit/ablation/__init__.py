"""Ablations: plan, train and compare variants of one recipe on the same seeds.

`requests` and `arm_planner` turn the command line into `arms`. `plan` gives every arm at every seed a run folder, and
`estimate` predicts its cost. `launch` or `cluster` trains the runs, `collect` reads their `results`, and `statistics`
compares the arms.
"""
