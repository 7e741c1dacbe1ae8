"""What the network says about one image, in names and numbers.

The command's rows and Python's results are the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from .stream import Answer


class Prediction(NamedTuple):
    """The answer about one image.

    `class_name` is the most probable class, None if its `probability` is below the threshold or
    there was no usable image; then `error` says why, and `probability` is None. `top` holds the
    most probable classes with their probabilities, whatever the threshold. `path` is None for what
    has no path.
    """

    path: str | None
    class_name: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def check_top(top: int, classes: Sequence[str]) -> int:
    """`top`, if there are as many classes; UsageError if not."""
    if not 1 <= top <= len(classes):
        raise UsageError(
            f"--top ({top}): must be from 1 to {len(classes)}, the number of this run's classes. "
            "See --help."
        )
    return top


def prediction(
    answer: Answer, classes: Sequence[str], *, top: int = 1, threshold: float = 0.0
) -> Prediction:
    """An answer with its `top` most probable classes; of equal ones the first comes first."""
    item, found, error = answer
    if found is None:
        return Prediction(item.path, None, None, error=error)
    first = int(found.argmax())
    order = [first] if top == 1 else np.argsort(-found, kind="stable")[:top].tolist()
    named = tuple((classes[number], float(found[number])) for number in order)
    name, probability = named[0]
    return Prediction(item.path, name if probability >= threshold else None, probability, named)
