"""Measure a frozen backbone: crops and labels, features, and what each probe makes of them."""
