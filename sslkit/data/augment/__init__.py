"""Augmentation: parameters are drawn once, and applied to bytes or to tensors."""
