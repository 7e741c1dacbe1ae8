"""Estimates the remaining time of a run, and formats durations.

The estimate uses only timed steps and evaluations, since the first steps of a run are much slower.
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

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
        self.steps_seen, self.last = 0, perf_counter()
        self.timed_steps, self.timed_seconds = 0, 0.0
        self.eval_began: float | None = None
        self.eval_seconds: float | None = None

    def step_done(self, now: float) -> None:
        self.steps_seen += 1
        if self.steps_seen > self.warm_up:
            self.timed_steps += 1
            self.timed_seconds += now - self.last
        self.last = now

    def test_batch_done(self, now: float) -> None:
        self.eval_began = self.last if self.eval_began is None else self.eval_began

    def epoch_done(self, now: float) -> None:
        if self.eval_began is not None:
            self.eval_seconds, self.eval_began = now - self.eval_began, None
        self.last = now

    @property
    def images_per_second(self) -> float:
        return self.timed_steps * self.plan.batch_size / max(self.timed_seconds, 1e-9)

    def evaluation(self) -> float:
        """Seconds of one evaluation, timed or estimated."""
        if self.eval_seconds is not None:
            return self.eval_seconds
        return EVAL_SHARE * self.plan.test_images / max(self.images_per_second, 1e-9)

    def left(self, run: Run) -> float | None:
        """Seconds to the end of the run; None before the first timed step."""
        if not self.timed_steps:
            return None
        steps = (self.plan.epochs - run.epoch) * self.plan.steps - run.step
        seconds = steps * self.timed_seconds / self.timed_steps
        # One more evaluation than epochs: the best network is evaluated at the end.
        return seconds + (self.plan.epochs - run.epoch + 1) * self.evaluation()


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
