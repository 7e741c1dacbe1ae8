"""Durable files and checkpoints."""
