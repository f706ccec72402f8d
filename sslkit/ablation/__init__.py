"""Ablations: variants of one recipe, trained beside it on the same seeds, and what came of them."""
