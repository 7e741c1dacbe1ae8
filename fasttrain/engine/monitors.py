"""What the schedule and the best epoch go by, and how an epoch is written down.

Higher is better for every score, so that neither has to know which one it is.
"""

from __future__ import annotations

import math
from typing import Any

from .state import Epoch

UNEQUAL = ("balanced_accuracy", "macro_f1")  # where every class counts the same


def score(row: Epoch, monitor: str = "accuracy") -> float:
    """What `monitor` names of an epoch."""
    if monitor == "loss":
        return -row.test_loss
    found = row.test_accuracy if monitor == "accuracy" else getattr(row, monitor)
    return -math.inf if found is None else found


def plain(row: Epoch) -> list[Any]:
    """An epoch as a checkpoint has it: without what is counted by class where it was not."""
    values = list(row)
    while len(values) > row._fields.index(UNEQUAL[0]) and values[-1] is None:
        values.pop()
    return values


def line(row: Epoch, held_out: str = "test") -> dict[str, Any]:
    """An epoch as metrics.jsonl has it: `test_` becomes the split that chooses, and what is counted
    by class is left out where it was not."""
    values = {name.replace("test_", f"{held_out}_"): v for name, v in row._asdict().items()}
    return {name: v for name, v in values.items() if v is not None or name not in UNEQUAL}
