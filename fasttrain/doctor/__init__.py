"""Inventory of a machine, and a quick measurement of what limits training on it."""
