"""The learning rate at each point of a run: the steps of a plateau, or a schedule's curve.

The rows hold the rates of each epoch's first and last step. Figure, page and comparison all take
what lies between them from here, so that they agree.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .read import Run
from .records import Row
from .words import fact

# torch's defaults: start as a share of the peak, steps that rise, end as a share of the start
ONECYCLE_START, ONECYCLE_UP, ONECYCLE_END = 1 / 25, 0.3, 1e-4
POINTS = 400  # drawn for a curve


class Rates(NamedTuple):
    """Rates by completed epochs, from 0; with `stairs`, a value holds since the previous point."""

    epochs: list[float]
    values: list[float]
    stairs: bool

    def at(self, epochs: float) -> float | None:
        """Return the rate after `epochs` epochs; None after the end."""
        if not self.epochs or epochs > self.epochs[-1]:
            return None
        if self.stairs:
            return self.values[int(np.searchsorted(self.epochs, epochs))]
        return float(np.interp(epochs, self.epochs, self.values))


def is_plateau(run: Run) -> bool:
    return run.recipe.get("scheduler", "plateau") == "plateau"


def first(run: Run) -> float:
    """Return the rate of the first step: recorded, or of the recipe or range test, or NaN."""
    recorded = run.rows[0].first_lr if run.rows else math.nan
    if math.isfinite(recorded):
        return recorded
    if run.rows and is_plateau(run):
        return run.rows[0].lr
    found = fact(run.recipe, "lr")
    if math.isnan(found) and run.sweep is not None:
        found = run.sweep.suggestion
    return found * (ONECYCLE_START if run.recipe.get("scheduler") == "onecycle" else 1)


def rates(run: Run) -> Rates:
    """Return the rates to draw; empty before the first epoch ends."""
    rows = run.rows
    if not rows:
        return Rates([], [], stairs=True)
    if is_plateau(run) and not fact(run.recipe, "warmup") > 0:
        ends = [float(row.epoch) for row in rows]
        return Rates([ends[0] - 1, *ends], [first(run), *(row.lr for row in rows)], stairs=True)
    known = _known(run)
    between = max(1, min(16, POINTS // len(known)))
    points = [known[0]]
    for left, right in pairwise(known):
        points += _curve(run, left, right, between)
    epochs, values = zip(*points, strict=True)
    return Rates(list(epochs), list(values), stairs=False)


def _known(run: Run) -> list[tuple[float, float]]:
    """Return (epochs, rate) at the first and last step of each epoch, and at the end."""
    found: list[tuple[float, float]] = []
    for row in run.rows:
        start = row.first_lr if found else first(run)
        found += [(row.epoch - 1.0, start), (row.epoch - 1 / _steps(run, row), row.lr)]
    found.append((float(run.rows[-1].epoch), run.rows[-1].lr))  # it holds until the step ends
    return [(at, lr) for at, lr in dict(found).items() if math.isfinite(lr)] or found[-1:]


def _steps(run: Run, row: Row) -> float:
    """Return the steps of an epoch, from its images and batch size; 1000 if unknown."""
    steps = row.seconds * row.images_per_second / fact(run.recipe, "batch_size")
    return max(steps, 1.0) if math.isfinite(steps) else 1000.0


def _curve(
    run: Run, left: tuple[float, float], right: tuple[float, float], parts: int
) -> list[tuple[float, float]]:
    """Return points after `left` up to `right`, on the schedule's curve if both ends lie on it.

    Otherwise, as after a resume under another recipe, the line is straight.
    """
    (x0, y0), (x1, y1) = left, right
    bottom, top = _share(run, x0), _share(run, x1)
    if min(bottom, top) <= 0 or not math.isclose(y0 / bottom, y1 / top, rel_tol=0.02):
        return [right]
    places = [x0 + (x1 - x0) * i / parts for i in range(1, parts)]
    scale = [y0 / bottom + (y1 / top - y0 / bottom) * i / parts for i in range(1, parts)]
    return [*((x, c * _share(run, x)) for x, c in zip(places, scale, strict=True)), right]


def _share(run: Run, epochs: float) -> float:
    """Return the scheduled rate after `epochs` epochs, as a share of its peak."""
    planned, kind = fact(run.recipe, "epochs"), run.recipe.get("scheduler")
    if (warm := fact(run.recipe, "warmup")) > 0:
        steps = _steps(run, run.rows[0])
        warm = round(warm * steps) / steps
        if epochs < warm:
            start = ONECYCLE_START if kind == "onecycle" else 1.0
            return start * (epochs * steps + 1) / (warm * steps + 1)
        epochs, planned = epochs - warm, planned - warm
        if kind == "plateau":
            return 1.0
    done = epochs / planned if planned > 0 else math.nan
    if not 0 <= done <= 1 or kind not in ("linear", "cosine", "onecycle"):
        return 0.0
    if kind == "linear":
        return 1 - done
    if kind == "cosine":
        return _between(1.0, 0.0, done)
    steps = planned * _steps(run, run.rows[0])
    up = (ONECYCLE_UP * (steps + 1) - 1) / steps  # torch counts a step more
    if done <= up:
        return _between(ONECYCLE_START, 1.0, done / up)
    return _between(1.0, ONECYCLE_START * ONECYCLE_END, (done - up) / (1 - up))


def _between(low: float, high: float, share: float) -> float:
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
