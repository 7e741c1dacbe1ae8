"""The score of an epoch, by which the schedule and the best epoch go, and its written forms.

Higher is better for every score, so neither has to know which one it is.
"""

from __future__ import annotations

import math
from typing import Any

from .state import Epoch

UNEQUAL = ("balanced_accuracy", "macro_f1")  # means in which every class counts the same


def score(row: Epoch, monitor: str = "accuracy") -> float:
    """Return the score of an epoch that `monitor` names; higher is better."""
    if monitor == "loss":
        return -row.test_loss
    found = row.test_accuracy if monitor == "accuracy" else getattr(row, monitor)
    return -math.inf if found is None else found


def is_better(row: Epoch, best: Epoch | None, monitor: str = "accuracy") -> bool:
    """Whether `row` beats `best`; at equal scores the earlier epoch stays."""
    return best is None or score(row, monitor) > score(best, monitor)


def plain(row: Epoch) -> list[Any]:
    """Return an epoch as a checkpoint stores it: without trailing means that were not computed."""
    values = list(row)
    while len(values) > row._fields.index(UNEQUAL[0]) and values[-1] is None:
        values.pop()
    return values


def line(row: Epoch, held_out: str = "test") -> dict[str, Any]:
    """Return an epoch as metrics.jsonl stores it.

    `held_out` replaces "test" in the names; means over classes are left out if not computed.
    """
    values = {name.replace("test_", f"{held_out}_"): v for name, v in row._asdict().items()}
    return {name: v for name, v in values.items() if v is not None or name not in UNEQUAL}
