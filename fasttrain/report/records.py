"""The records in a run directory's files as typed tuples, each parsed from one JSON object.

A malformed object is refused here, so that the code that draws can rely on every field.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """An epoch of metrics.jsonl; a missing value is NaN. `lr` is the rate of its last step."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float
    data_wait_seconds: float
    first_lr: float = math.nan
    balanced_accuracy: float = math.nan
    macro_f1: float = math.nan
    ema_test_accuracy: float = math.nan  # of the averaged network

    @classmethod
    def of(cls, found: dict[str, Any]) -> Row:
        """Parse a line of metrics.jsonl; the `val_` values of a run where val chose become
        `test_`."""
        held = {name: found.get(name.replace("test_", "val_")) for name in cls._fields}
        values = (number(found.get(name, held[name])) for name in cls._fields[1:])
        return cls(int(number(found["epoch"])), *values)


class Sweep(NamedTuple):
    """lr_finder.json: losses by rate and the suggestions from them; `raw` may be empty."""

    lrs: np.ndarray
    losses: np.ndarray
    raw: np.ndarray
    suggestion: float
    rule: str
    stopped: str
    suggestions: dict[str, float]
    notes: list[str]

    @classmethod
    def of(cls, found: dict[str, Any]) -> Sweep:
        lrs, losses, raw = (numbers(found.get(key, [])) for key in ("lrs", "losses", "raw"))
        if len(lrs) != len(losses):
            raise ValueError(f"{len(lrs)} lrs for {len(losses)} losses")
        rates = [*lrs.tolist(), number(found["suggestion"])]
        if not all(0 < lr < math.inf for lr in rates):
            raise ValueError("not all of its rates are positive numbers")
        suggestions = {str(k): number(v) for k, v in (found.get("suggestions") or {}).items()}
        return cls(
            lrs,
            losses,
            raw if len(raw) == len(lrs) else numbers([]),
            number(found["suggestion"]),
            str(found.get("rule", "")),
            str(found.get("stopped") or ""),
            suggestions,
            [str(note) for note in found.get("notes", [])],
        )


class Mistake(NamedTuple):
    """A misclassified image: `place` is its index, `confidence` a fraction; own images have the
    path of their `file`."""

    place: int
    true: str
    predicted: str
    confidence: float
    file: str = ""

    @classmethod
    def of(cls, found: dict[str, Any]) -> Mistake:
        true, predicted = str(found["true"]), str(found["predicted"])
        confidence, file = number(found["confidence"]), str(found.get("file", ""))
        return cls(int(found["index"]), true, predicted, confidence, file)


class Mistakes(NamedTuple):
    """misclassified.json: the `total` of mistakes, those shown, the `rule` that chose them, and the
    module whose maps are shown, unless an older release wrote it."""

    rule: str = ""
    total: int = 0
    shown: tuple[Mistake, ...] = ()
    label_errors: tuple[Mistake, ...] = ()
    layer: str = ""


class ClassRow(NamedTuple):
    """The results of a class; `low` to `high` is the accuracy's Wilson 95 % interval."""

    name: str
    images: int
    correct: int
    accuracy: float
    low: float
    high: float

    @classmethod
    def of(cls, found: dict[str, Any]) -> ClassRow:
        shares = (number(found.get(key)) for key in ("accuracy", "low", "high"))
        return cls(str(found["name"]), int(found["count"]), int(found["correct"]), *shares)


def number(value: object) -> float:
    """Convert a JSON number to float, null to NaN; ValueError for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def numbers(values: list[object]) -> np.ndarray:
    """Convert a list of JSON numbers to float64."""
    return np.array([number(value) for value in values], dtype=float)
