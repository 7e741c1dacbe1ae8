"""Estimates the remaining time of a run, and formats durations.

The estimate uses only timed steps and evaluations, since the first steps of a run are much slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # so that durations can be formatted without torch
    from ..engine.state import Run

# Time of an evaluated image relative to a trained one, until the first evaluation has been timed: a
# forward pass is a third of the arithmetic.
EVAL_SHARE = 0.33


class Plan(NamedTuple):
    """The size of a run: training and test batches per epoch, and images.

    `faster` is advice on faster flags, printed if the run will take very long.
    """

    epochs: int
    steps: int
    batch_size: int
    test_batches: int
    test_images: int
    on_cpu: bool
    faster: str = ""
    held_out: str = "test"


class Estimate:
    """Estimates the seconds left of a run from its timed steps; the first two are warm-up."""

    def __init__(self, plan: Plan, *, warm_up: int = 2) -> None:
        self.plan, self.warm_up = plan, warm_up
        self.timed_steps, self.timed_seconds = 0, 0.0
        self._done = 0  # steps reported so far
        self._at = 0, 0.0  # the step and the seconds of the last report

    def reached(self, step: int, seconds: float) -> None:
        """Note that the device has done `step` steps of this epoch in `seconds` of training.

        The host may have launched more; how many of them are done it sees only now and then.
        """
        steps, took = step - self._at[0], seconds - self._at[1]
        self._at = step, seconds
        if self._done >= self.warm_up:
            self.timed_steps += steps
            self.timed_seconds += took
        self._done += steps

    def begin(self, step: int = 0, seconds: float = 0.0) -> None:
        """Note where an epoch begins: a resumed one after `step` steps and `seconds`."""
        self._at = step, seconds

    @property
    def images_per_second(self) -> float:
        return self.timed_steps * self.plan.batch_size / max(self.timed_seconds, 1e-9)

    def evaluation(self, run: Run) -> float:
        """Seconds of one evaluation: the mean of those so far, or an estimate before the first."""
        if run.epoch:
            return run.eval_seconds / run.epoch
        return EVAL_SHARE * self.plan.test_images / max(self.images_per_second, 1e-9)

    def left(self, run: Run) -> float | None:
        """Seconds to the end of the run; None before the first timed step."""
        if not self.timed_steps:
            return None
        steps = (self.plan.epochs - run.epoch) * self.plan.steps - self._at[0]
        seconds = steps * self.timed_seconds / self.timed_steps
        # One more evaluation than epochs: the best network is evaluated at the end.
        return seconds + (self.plan.epochs - run.epoch + 1) * self.evaluation(run)


def duration(seconds: float | None) -> str:
    """Format a duration: 42 s, 3 min 10 s, 11 h 20 min."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
