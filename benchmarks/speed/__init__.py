"""Measure sslkit's speed beside what users would write without it: `PYTHONPATH=benchmarks python -m speed`."""
