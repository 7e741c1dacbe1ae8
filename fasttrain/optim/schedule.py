"""Learning-rate schedules: torch's own schedulers, stepped after each step or each epoch.

Parameter groups may have different rates; every schedule keeps the ratios between them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
)

from ..errors import UsageError


def ratios(optimizer: Optimizer) -> list[float]:
    """Each group's rate as a multiple of the first group's.

    A group without a `ratio` gets one from the current rates, or from the initial rates if the
    first group's current rate is 0. Raises UsageError if both of that group's rates are 0 and the
    other group's rate is not.
    """
    first, *others = optimizer.param_groups
    own = first.get("ratio", 1.0)
    for group in others:
        if "ratio" not in group:
            group["ratio"] = own * _multiple(group, first)
    return [group.get("ratio", 1.0) / own for group in optimizer.param_groups]


def _multiple(group: dict[str, Any], first: dict[str, Any]) -> float:
    for name in ("lr", "initial_lr"):
        if name in group and name in first:
            rate, base = float(group[name]), float(first[name])
            if base > 0:
                return rate / base
    if group["lr"] == first["lr"]:
        return 1.0
    raise UsageError(
        f"optimizer (lr {float(first['lr']):g} in its first group, {float(group['lr']):g} in "
        "another): the ratio is undefined. Put a group with a rate above 0 first."
    )


class Plateau:
    """ReduceLROnPlateau on a score, higher is better.

    An epoch makes progress if it gains more than `threshold`.
    """

    PROGRESS = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")

    def __init__(
        self, optimizer: Optimizer, *, patience: int, factor: float, threshold: float
    ) -> None:
        self.scheduler = ReduceLROnPlateau(
            optimizer,
            mode="max",
            patience=int(patience),
            factor=float(factor),
            threshold=float(threshold),
            threshold_mode="abs",
        )

    def after_step(self) -> None:
        """Do nothing: the rate changes only between epochs."""

    def after_epoch(self, score: float) -> None:
        self.scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        return _plain_values(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, with this schedule's own patience, factor and threshold."""
        ours = self.state_dict()
        progress = {key: value for key, value in state.items() if key in self.PROGRESS}
        self.scheduler.load_state_dict(_checked({**ours, **progress}, ours))

    def set_peak(self, lr: float) -> None:
        """Do nothing: this schedule continues from the optimizer's current rate."""

    def seek(self, done: int) -> None:
        """Do nothing: this schedule does not depend on the number of steps."""


class EveryStep:
    """`cosine` or `linear` (to zero) or `onecycle` (up for 30 % of the steps, then down)."""

    HORIZON = ("T_max", "total_iters", "total_steps", "_schedule_phases")

    def __init__(self, optimizer: Optimizer, *, kind: str, lr: float, steps: int) -> None:
        self.scheduler: LRScheduler
        self._steps, self._curve_changed = int(steps), False
        steps = self._steps
        if kind == "cosine":
            self.scheduler = CosineAnnealingLR(optimizer, steps)
        elif kind == "linear":
            self.scheduler = PolynomialLR(optimizer, total_iters=steps, power=1.0)
        else:
            # cycle_momentum would change momentum, a plain number, inside a captured step.
            peaks = [float(lr) * ratio for ratio in ratios(optimizer)]
            self.scheduler = OneCycleLR(
                optimizer, max_lr=peaks, total_steps=steps + 1, cycle_momentum=False
            )

    def after_step(self) -> None:
        self.scheduler.step()

    def after_epoch(self, score: float) -> None:
        """Do nothing: the rate changes with every step."""

    def state_dict(self) -> dict[str, Any]:
        return _plain_values(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, towards this schedule's own last step."""
        ours = self.state_dict()
        end = {key: value for key, value in ours.items() if key in self.HORIZON}
        self.scheduler.load_state_dict(_checked({**state, **end}, ours))
        self._curve_changed = any(state.get(key) != value for key, value in end.items())

    def set_peak(self, lr: float) -> None:
        """Scale the curve to another peak rate `lr`; the next `seek` applies it."""
        optimizer = self.scheduler.optimizer
        for group, ratio in zip(optimizer.param_groups, ratios(optimizer), strict=True):
            peak = group.get("max_lr", group["initial_lr"])
            for name in {"initial_lr", "max_lr", "min_lr"} & group.keys():
                group[name] *= lr * ratio / peak
        rates = [group["initial_lr"] for group in optimizer.param_groups]
        self.scheduler.base_lrs, self._curve_changed = rates, True

    def seek(self, done: int) -> None:
        """Set the rate after `done` steps.

        If the curve has changed, all steps are replayed, because torch computes each rate from the
        one before.
        """
        if not self._curve_changed and self.scheduler.last_epoch == done:
            return
        for group in self.scheduler.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["initial_lr"])
            else:
                group["lr"] = float(group["initial_lr"])
        self.scheduler.last_epoch = 0
        for _ in range(min(done, self._steps)):
            self.scheduler.step()
        self._curve_changed = False


def _checked(state: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The entries of a loaded state that `ours` has; ValueError if one has another type."""
    for key, value in ours.items():
        if not _has_type_of(state[key], value):
            raise ValueError(f"{key} of the schedule is {state[key]!r}"[:100])
    return {key: state[key] for key in ours}


def _has_type_of(value: Any, ours: Any) -> bool:
    if isinstance(ours, list):
        alike = isinstance(value, list) and len(value) == len(ours)
        return alike and all(map(_has_type_of, value, ours))
    if isinstance(ours, (float, Tensor)):  # a rate may be either
        return type(value) in (int, float, Tensor) and bool(value == value)
    return type(value) is type(ours) and (isinstance(ours, int) or value == ours)


def _plain_values(state: dict[str, Any]) -> dict[str, Any]:
    """Only the values that a checkpoint may hold: numbers, strings, tensors and lists of them."""
    keep = (int, float, str, bool, list, type(None))
    return {key: value for key, value in state.items() if isinstance(value, keep)}
