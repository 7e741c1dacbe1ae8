"""How the learning rate falls: torch's own schedulers, each stepped at its own moment."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
)


class Plateau:
    """ReduceLROnPlateau on the test accuracy, a fraction; progress is a gain of more than
    `threshold`."""

    def __init__(
        self, optimizer: Optimizer, *, patience: int, factor: float, threshold: float
    ) -> None:
        self.scheduler = ReduceLROnPlateau(
            optimizer,
            mode="max",
            patience=patience,
            factor=factor,
            threshold=threshold,
            threshold_mode="abs",
        )

    def after_step(self) -> None:
        """A plateau is only seen between epochs."""

    def after_epoch(self, test_accuracy: float) -> None:
        self.scheduler.step(test_accuracy)

    def state_dict(self) -> dict[str, Any]:
        return _plain(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(dict(state))


class EveryStep:
    """`cosine` or `linear` (both to zero), or `onecycle` (up for 30 % of the steps, then down)."""

    def __init__(self, optimizer: Optimizer, *, kind: str, lr: float, steps: int) -> None:
        self.scheduler: LRScheduler
        if kind == "cosine":
            self.scheduler = CosineAnnealingLR(optimizer, steps)
        elif kind == "linear":
            self.scheduler = PolynomialLR(optimizer, total_iters=steps, power=1.0)
        else:
            # cycle_momentum would make momentum a number that changes inside a captured step.
            peaks = [lr * group.get("ratio", 1.0) for group in optimizer.param_groups]
            self.scheduler = OneCycleLR(
                optimizer, max_lr=peaks, total_steps=steps + 1, cycle_momentum=False
            )

    def after_step(self) -> None:
        self.scheduler.step()

    def after_epoch(self, test_accuracy: float) -> None:
        """The rate has already moved with every step."""

    def state_dict(self) -> dict[str, Any]:
        return _plain(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(dict(state))


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Only what a checkpoint may hold: numbers, strings, tensors and lists of them."""
    keep = (int, float, str, bool, list, type(None))
    return {key: value for key, value in state.items() if isinstance(value, keep)}
