"""Raises the learning rate linearly at the start of a training, before any other schedule.

torch's SequentialLR takes no plateau, and its LinearLR multiplies the rate of the step before,
which leaves rounding errors in all later rates.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .schedule import EveryStep, Plateau, ratios


class WarmUp:
    """`schedule` after `steps` steps in which the rate rises to the one that it begins with.

    After k steps the rate is (k + 1) / (steps + 1) of it, as torch's LinearLR has it. `schedule` is
    made before, over the steps that remain. A plateau counts no epoch that ends in the warm-up.
    """

    def __init__(self, schedule: Plateau | EveryStep, optimizer: Optimizer, *, steps: int) -> None:
        self.schedule, self.optimizer = schedule, optimizer
        self._steps, self._done = int(steps), 0
        for group in optimizer.param_groups:
            rate = group["lr"]
            group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
        self._set_rates()

    def after_step(self) -> None:
        if self._done < self._steps:
            self._done += 1
            self._set_rates()
        else:
            self.schedule.after_step()

    def after_epoch(self, score: float) -> None:
        if self._done >= self._steps:
            self.schedule.after_epoch(score)

    def state_dict(self) -> dict[str, Any]:
        return {**self.schedule.state_dict(), "warmed": self._done, "warm_up": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError if it is not one of a warm-up."""
        self.schedule.load_state_dict(state)
        done, steps = state["warmed"], state["warm_up"]
        if not (type(done) is type(steps) is int and 0 <= done <= steps):
            raise ValueError(f"the warm-up is at step {done!r} of {steps!r}"[:100])
        # At another number of steps the rates are set by `seek`, unless the warm-up was over.
        self._done = self._steps if done == steps else done if steps == self._steps else -1

    def set_peak(self, lr: float) -> None:
        """Rise to another rate `lr`, and scale the curve after it; the next `seek` applies it."""
        self.schedule.set_peak(lr)
        if isinstance(self.schedule, Plateau):
            groups = self.optimizer.param_groups
            for group, ratio in zip(groups, ratios(self.optimizer), strict=True):
                group["initial_lr"] = lr * ratio
        self._done = self._done if self._done == self._steps else -1

    def seek(self, done: int) -> None:
        """Set the rate after `done` steps."""
        warmed = min(done, self._steps)
        if self._done != warmed:
            self._done = warmed
            self._set_rates()
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # or torch warns of a replay
        self.schedule.seek(done - warmed)
        if warmed < self._steps:  # the schedule may have set its own first rate
            self._set_rates()

    def _set_rates(self) -> None:
        share = (self._done + 1) / (self._steps + 1)
        for group in self.optimizer.param_groups:
            rate = group["initial_lr"] * share
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = float(rate)


AnySchedule = Plateau | EveryStep | WarmUp
