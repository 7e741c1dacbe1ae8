"""A pair of numbers that a Recipe keeps as one text, such as "0.8,1.25".

As text it is a plain value like the others: a flag, a line of recipe.json, and easy to compare.
"""

from __future__ import annotations

from typing import Any


def ends(text: str) -> tuple[float, float]:
    """Return the two numbers of a pair; ValueError if it is none."""
    low, high = (float(part) for part in text.split(","))
    return low, high


def written(value: Any) -> Any:
    """Return a pair, given as text or as two numbers, as the one text for it; else `value`."""
    try:
        low, high = ends(value) if isinstance(value, str) else map(float, value)
    except (TypeError, ValueError):
        return value
    return f"{low:.15g},{high:.15g}"


def lies_between(value: object, low: float, high: float) -> bool:
    """Return whether `value` is the text of two numbers in [low, high], the lower one first."""
    try:
        first, last = ends(value) if isinstance(value, str) else (0.0, -1.0)
    except ValueError:
        return False
    return low <= first <= last <= high  # false for NaN
