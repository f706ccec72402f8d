"""Augment views: draw parameters once, and apply them to bytes or to tensors."""
