"""How the learning rate falls: torch's own schedulers, each stepped at its own moment.

Groups of parameters may have rates of their own; whatever moves the rate keeps their ratios.
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

    A group without a `ratio` is given one, from the two rates of now; from those that they began
    with where the first is 0 now, and UsageError where that was 0, too, and the group's was not.
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
        "another): there is no ratio to keep. Put a group first whose rate is above 0."
    )


class Plateau:
    """ReduceLROnPlateau on a score, higher is better; progress is a gain of more than
    `threshold`."""

    MOVES = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")

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
        """A plateau is only seen between epochs."""

    def after_epoch(self, score: float) -> None:
        self.scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        return _plain(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with this schedule's own patience, factor and threshold."""
        ours = self.state_dict()
        moved = {key: value for key, value in state.items() if key in self.MOVES}
        self.scheduler.load_state_dict(_taken({**ours, **moved}, ours))

    def aim(self, lr: float) -> None:
        """A plateau goes on from whatever rate the optimizer has."""

    def seek(self, done: int) -> None:
        """A plateau does not depend on how many steps there are to be."""


class EveryStep:
    """`cosine` or `linear` (both to zero), or `onecycle` (up for 30 % of the steps, then down)."""

    HORIZON = ("T_max", "total_iters", "total_steps", "_schedule_phases")

    def __init__(self, optimizer: Optimizer, *, kind: str, lr: float, steps: int) -> None:
        self.scheduler: LRScheduler
        self._steps, self._moved = int(steps), False
        steps = self._steps
        if kind == "cosine":
            self.scheduler = CosineAnnealingLR(optimizer, steps)
        elif kind == "linear":
            self.scheduler = PolynomialLR(optimizer, total_iters=steps, power=1.0)
        else:
            # cycle_momentum would make momentum a number that changes inside a captured step.
            peaks = [float(lr) * ratio for ratio in ratios(optimizer)]
            self.scheduler = OneCycleLR(
                optimizer, max_lr=peaks, total_steps=steps + 1, cycle_momentum=False
            )

    def after_step(self) -> None:
        self.scheduler.step()

    def after_epoch(self, score: float) -> None:
        """The rate has already moved with every step."""

    def state_dict(self) -> dict[str, Any]:
        return _plain(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, towards the end that this schedule was made for."""
        ours = self.state_dict()
        end = {key: value for key, value in ours.items() if key in self.HORIZON}
        self.scheduler.load_state_dict(_taken({**state, **end}, ours))
        self._moved = any(state.get(key) != value for key, value in end.items())

    def aim(self, lr: float) -> None:
        """Go on, from the next `seek`, on the curve of another rate."""
        optimizer = self.scheduler.optimizer
        for group, ratio in zip(optimizer.param_groups, ratios(optimizer), strict=True):
            peak = group.get("max_lr", group["initial_lr"])
            for name in {"initial_lr", "max_lr", "min_lr"} & group.keys():
                group[name] *= lr * ratio / peak
        rates = [group["initial_lr"] for group in optimizer.param_groups]
        self.scheduler.base_lrs, self._moved = rates, True

    def seek(self, done: int) -> None:
        """Have the rate after `done` steps; where a loaded state had another end, of this one's
        curve, by going through it, since torch's rates follow from the one before."""
        if not self._moved and self.scheduler.last_epoch == done:
            return
        for group in self.scheduler.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["initial_lr"])
            else:
                group["lr"] = float(group["initial_lr"])
        self.scheduler.last_epoch = 0
        for _ in range(min(done, self._steps)):
            self.scheduler.step()
        self._moved = False


def _taken(state: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Of a loaded state what `ours` has too; ValueError if it could not stand in its place."""
    for key, value in ours.items():
        if not _is_like(state[key], value):
            raise ValueError(f"{key} of the schedule is {state[key]!r}"[:100])
    return {key: state[key] for key in ours}


def _is_like(value: Any, ours: Any) -> bool:
    if isinstance(ours, list):
        alike = isinstance(value, list) and len(value) == len(ours)
        return alike and all(map(_is_like, value, ours))
    if isinstance(ours, (float, Tensor)):  # a rate may be either
        return type(value) in (int, float, Tensor) and bool(value == value)
    return type(value) is type(ours) and (isinstance(ours, int) or value == ours)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Only what a checkpoint may hold: numbers, strings, tensors and lists of them."""
    keep = (int, float, str, bool, list, type(None))
    return {key: value for key, value in state.items() if isinstance(value, keep)}
