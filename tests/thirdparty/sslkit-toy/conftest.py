"""Collect these tests only where the package is installed: they run in an environment of their own."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("sslkit_toy") else ["tests"]
