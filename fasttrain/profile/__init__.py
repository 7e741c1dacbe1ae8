"""Profiler traces of a few steps, and a summary of where the time went."""
