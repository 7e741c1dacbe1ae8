"""Traces of a few steps, and where their time went."""
