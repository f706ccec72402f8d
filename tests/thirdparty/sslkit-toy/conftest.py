"""Collect nothing where the package is not installed: these are its own tests, run in its own environment."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("sslkit_toy") else ["tests"]
