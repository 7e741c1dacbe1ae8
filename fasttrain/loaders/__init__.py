"""Batches: one epoch's randomness as arrays, and the loaders that apply it."""
