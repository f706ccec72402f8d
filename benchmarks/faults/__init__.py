"""The fault campaign: what sslkit survives, counted. `python benchmarks/faults` runs all of it."""
