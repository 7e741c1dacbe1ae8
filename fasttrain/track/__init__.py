"""Tells a run to an experiment tracker, from a process of its own."""
