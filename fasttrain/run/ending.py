"""Decides when a run has trained enough, and says why it ended.

Everything but the clock is a function of the history, so that all processes agree and a resumed run
goes on counting.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..engine import monitors
from ..engine.state import Epoch
from ..recipe.recipe import Recipe
from ..report.words import metric, percent


def enough(recipe: Recipe, history: Sequence[Epoch], seconds: float) -> bool:
    """Return whether a run, at the end of an epoch, has reached its target or a limit."""
    if not history:
        return False
    late = recipe.max_time is not None and seconds > recipe.max_time
    return late or _reached(recipe, history) or _stalled(recipe, history)


def reason(recipe: Recipe, history: Sequence[Epoch]) -> str:
    """Say why a run that has ended did so."""
    last = history[-1]
    if _reached(recipe, history):
        target = percent(recipe.target_accuracy or 0.0)
        return f"target accuracy of {target} reached in epoch {last.epoch}"
    if last.epoch >= recipe.epochs:
        return f"epoch {last.epoch}, the last, is trained"
    if _stalled(recipe, history):
        gain = "fall" if recipe.monitor == "loss" else "gain"
        return (
            f"no {gain} of the {metric(recipe.monitor)} in {recipe.stop_after} epochs, after epoch "
            f"{last.epoch - since_gain(history, recipe.monitor)}"
        )
    return f"time limit reached in epoch {last.epoch}"


def since_gain(history: Sequence[Epoch], monitor: str) -> int:
    """Return the epochs since the best one, by the score that `monitor` names."""
    best: Epoch | None = None
    for row in history:
        best = row if monitors.is_better(row, best, monitor) else best
    return history[-1].epoch - best.epoch if best else 0


def _reached(recipe: Recipe, history: Sequence[Epoch]) -> bool:
    target = recipe.target_accuracy
    return target is not None and history[-1].test_accuracy >= target


def _stalled(recipe: Recipe, history: Sequence[Epoch]) -> bool:
    limit = recipe.stop_after
    return limit is not None and since_gain(history, recipe.monitor) >= limit
