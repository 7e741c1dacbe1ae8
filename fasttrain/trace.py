"""Names for stretches of the loop, which torch's profiler shows as spans."""

from __future__ import annotations

import torch


def span(name: str) -> torch.profiler.record_function:
    """Label a `with` block in the profiler's trace."""
    return torch.profiler.record_function(name)
