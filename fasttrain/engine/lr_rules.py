"""Which learning rate the curve of a range test suggests, by each of three rules.

The curve is the loss over exponentially rising rates; no rule knows what trained it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RULES = ("steepest", "valley", "minimum")
TRIM = 0.1  # of the curve, at its start, where the smoothed loss still forgets its first value
FLAT = 0.02  # a loss that falls by no more than this fraction has no slope to speak of


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> dict[str, float]:
    """The rules' learning rates for a smoothed curve, cut at its first value that is not finite.

    steepest: where it falls fastest per factor of lr, before its minimum; valley: fastai's rule on
    this curve, `_valley`; minimum: a tenth of where it is lowest, the only answer for a curve too
    short or too flat.
    """
    count = int(np.isfinite([*losses, np.nan]).argmin())
    if not count:
        return {}
    x, y = (np.asarray(values)[int(TRIM * count) : count] for values in (lrs, losses))
    low = int(y.argmin())
    minimum = {"minimum": float(max(x[low] / 10, x[0]))}
    if low < 2 or y[:low].max() - y[low] <= FLAT * abs(y[:low].max()):
        return minimum
    steepest = 1 + np.gradient(y, np.log(x))[1:low].argmin()
    valley = _valley(y.tolist())
    return {"steepest": float(x[steepest]), "valley": float(x[valley]), **minimum}


def _valley(losses: Sequence[float]) -> int:
    """fastai's point of the longest falling subsequence, of n losses, that first ends at `end`.

    It takes end - n for where the fall began, which is so only if no point of it rose, and adds a
    third of n, and a sixth of n, each rounded down (fastai 2.8, callback/schedule.py). fastai
    smooths by 0.98 and drops the last five points too; this curve keeps its own smoothing and end.
    """
    lengths: list[int] = []
    for i, loss in enumerate(losses):
        longest = max((lengths[j] for j in range(i) if losses[j] > loss), default=0)
        lengths.append(longest + 1)
    n = max(lengths)
    return lengths.index(n) - n + n // 3 + n // 6
