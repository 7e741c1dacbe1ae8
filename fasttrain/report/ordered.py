"""The order of compared runs: by name, by result, or by a field of their recipes.

A run without the value comes last, whatever the order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ..recipe.fields import earlier
from ..recipe.recipe import FIELDS
from .overlaid import names
from .read import Run
from .words import fact


def ordered(runs: Sequence[Run], by: str) -> list[Run]:
    """Return the runs sorted by `name`, `accuracy` (the highest first), `seconds` of training, or a
    field of the recipe; equal ones stay as they were."""
    keys = dict(zip(map(id, runs), (_key(run, by) for run in runs), strict=True))
    if by == "name":
        titles = names(list(runs))
        keys = {id(run): _natural(title) for run, title in zip(runs, titles, strict=True)}
    return sorted(runs, key=lambda run: keys[id(run)])


def setting(run: Run, name: str) -> Any:
    """Return a field of a run's recipe; one unknown to its release has the value it stood for."""
    default = earlier(FIELDS[name]) if run.recipe and name in FIELDS else None
    return run.recipe.get(name, default)


def _key(run: Run, by: str) -> tuple[Any, ...]:
    if by == "accuracy":
        return _last_if_nan(-run.best.test_accuracy if run.best else math.nan)
    if by == "seconds":
        trained = fact(run.summary, "train_seconds")
        spent = sum(row.seconds for row in run.rows) if run.rows else math.nan
        return _last_if_nan(trained if trained == trained else spent)
    value = setting(run, by)
    if isinstance(value, int | float):
        return _last_if_nan(float(value))
    return (3, "") if value is None else (1, str(value))


def _last_if_nan(value: float) -> tuple[Any, ...]:
    return (0, value) if value == value else (3, "")


def _natural(name: str) -> tuple[Any, ...]:
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part[:99]) if number % 2 else part for number, part in enumerate(parts))
