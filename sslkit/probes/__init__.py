"""Measure a frozen backbone: crops and labels, features, and the probes' scores."""
