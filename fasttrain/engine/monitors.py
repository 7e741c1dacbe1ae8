"""The score of an epoch, by which the schedule and the best epoch go, and its written forms.

Higher is better for every score, so neither has to know which one it is.
"""

from __future__ import annotations

import math
from typing import Any

from .state import Epoch

UNEQUAL = ("balanced_accuracy", "macro_f1")  # means in which every class counts the same
MEASURES = ("test_loss", "test_accuracy", *UNEQUAL)
AVERAGED = tuple(f"ema_{name}" for name in MEASURES)


def score(row: Epoch, monitor: str = "accuracy") -> float:
    """Return the score of an epoch's trained network that `monitor` names; higher is better."""
    if monitor == "loss":
        return -row.test_loss
    found = row.test_accuracy if monitor == "accuracy" else getattr(row, monitor)
    return -math.inf if found is None else found


def averaged_is_better(row: Epoch, monitor: str = "accuracy") -> bool:
    """Whether an epoch's averaged network scores higher than the trained one."""
    return row.ema_test_loss is not None and score(_of_average(row), monitor) > score(row, monitor)


def better(row: Epoch, monitor: str = "accuracy") -> Epoch:
    """Return an epoch with the numbers of its better network, trained or averaged, as `test_`."""
    return _of_average(row) if averaged_is_better(row, monitor) else row


def best_score(row: Epoch, monitor: str = "accuracy") -> float:
    """Return the score of an epoch's better network, trained or averaged."""
    return score(better(row, monitor), monitor)


def _of_average(row: Epoch) -> Epoch:
    pairs = zip(MEASURES, AVERAGED, strict=True)
    return row._replace(**{name: getattr(row, averaged) for name, averaged in pairs})


def is_better(row: Epoch, best: Epoch | None, monitor: str = "accuracy") -> bool:
    """Whether `row` beats `best`; at equal scores the earlier epoch stays."""
    return best is None or best_score(row, monitor) > best_score(best, monitor)


def plain(row: Epoch) -> list[Any]:
    """Return an epoch as a checkpoint stores it: without trailing values that were not computed."""
    values = list(row)
    while len(values) > row._fields.index(UNEQUAL[0]) and values[-1] is None:
        values.pop()
    return values


def line(row: Epoch, held_out: str = "test") -> dict[str, Any]:
    """Return an epoch as metrics.jsonl stores it.

    `held_out` replaces "test" in the names; means over classes and values of the averaged network
    are left out if not computed.
    """
    optional = (*UNEQUAL, *(name.replace("test_", f"{held_out}_") for name in AVERAGED))
    values = {name.replace("test_", f"{held_out}_"): v for name, v in row._asdict().items()}
    return {name: v for name, v in values.items() if v is not None or name not in optional}
