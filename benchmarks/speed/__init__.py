"""How fast sslkit is beside what users would write without it: `PYTHONPATH=benchmarks python -m speed`."""
