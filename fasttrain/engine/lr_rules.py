"""Three rules that suggest a learning rate from the curve of a range test.

The curve is the loss over exponentially rising rates. The rules see the curve alone, so that they
can be tested without a training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RULES = ("steepest", "valley", "minimum")
TRIM = 0.1  # the share of the curve cut at its start, where the first loss still dominates
FLAT = 0.02  # a curve that falls by no more than this fraction counts as flat


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> dict[str, float]:
    """The learning rate of each rule for a smoothed curve, cut at its first non-finite loss.

    steepest: where the loss falls fastest per factor of lr, before its minimum; valley: fastai's
    rule, see `_valley`; minimum: a tenth of the rate with the lowest loss, the only answer for a
    curve that is too short or too flat.
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
    """fastai's valley rule: a point within the longest falling subsequence of the losses.

    The subsequence has n losses; `end` is the first index where one of that length ends. fastai
    takes end - n as its start, which is exact only if no loss in between rises, and adds n // 3 and
    n // 6 (fastai 2.8, callback/schedule.py). fastai also smooths by 0.98 and drops the last five
    points; here the curve keeps its own smoothing and its end.
    """
    lengths: list[int] = []
    for i, loss in enumerate(losses):
        longest = max((lengths[j] for j in range(i) if losses[j] > loss), default=0)
        lengths.append(longest + 1)
    n = max(lengths)
    return lengths.index(n) - n + n // 3 + n // 6
