"""Muon: SGD whose updates of filters are made orthogonal, so that all directions learn alike.

Jordan et al., 2024 (kellerjordan.github.io/posts/muon). torch.optim.Muon refuses filters, which
have four dimensions; and here the other parameters are updated by the same optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError

# Newton-Schulz coefficients that bring singular values in (0, 1] near 1 in three iterations.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 3
# Learning rates of biases and of the head for a filters' rate of 1: airbench's, 0.053 and 0.67 to
# 0.24. A filter's update has a fixed size, the others' that of their gradient.
BIAS_RATE, HEAD_RATE = 0.22, 2.8


class Muon(torch.optim.Optimizer):
    """Nesterov momentum for all parameters of `model`; filters (4-d) get orthogonal updates.

    A filter bank is held at the norm sqrt(filters), so that `lr` is the size of an update relative
    to the weights; `filter_momentum` is its own, `momentum` and `weight_decay` (L2) are of the
    rest. Rates of all groups keep their ratio to the first group's, the filters', which is there
    also where they are frozen. UsageError where no parameter learns, or one is of a kind that no
    group is for.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: Tensor,
        momentum: float,
        weight_decay: float,
        filter_momentum: float = 0.6,
    ) -> None:
        learning = [p for p in model.parameters() if p.requires_grad]
        _refuse_others(model)
        momentum, weight_decay = float(momentum), float(weight_decay)
        kinds = (
            ((4,), 1.0, float(filter_momentum), 0.0),
            ((0, 1), BIAS_RATE, momentum, weight_decay),
            ((2,), HEAD_RATE, momentum, weight_decay),
        )
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in learning if p.ndim in dimensions],
                "lr": lr * ratio,
                "ratio": ratio,
                "momentum": m,
                "weight_decay": decay,
            }
            for dimensions, ratio, m, decay in kinds
        ]
        filters, *rest = groups
        super().__init__([filters, *(g for g in rest if g["params"])], {})
        for parameter in learning:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; the host waits for nothing."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])  # type: ignore[union-attr]
        velocity = self.state[parameter]["momentum_buffer"]
        velocity.mul_(group["momentum"]).add_(gradient)
        update = gradient.add_(velocity, alpha=group["momentum"])
        if parameter.ndim == 4:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            # In channels_last order, a view; the order of columns is all one to the result.
            flat = update.permute(0, 2, 3, 1).flatten(1)
            whole = orthogonal(flat).view(len(flat), *update.shape[2:], update.shape[1])
            update = whole.permute(0, 3, 1, 2)
        parameter.sub_(update * group["lr"])


def _refuse_others(model: nn.Module) -> None:
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not learning:
        raise UsageError(
            "Muon (0 parameters): none of the model learns. Set requires_grad of some."
        )
    for name, p in learning.items():
        if p.ndim not in (0, 1, 2, 4):
            raise UsageError(
                f"Muon ({name} of shape {tuple(p.shape)}): knows filters of 4 dimensions, matrices "
                "and biases. Freeze it, or use SGD."
            )


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor of `matrix` (rows, columns): its singular values brought to
    between 0.7 and 1.2, in bfloat16."""
    x = matrix.bfloat16()
    wide = len(x) <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = A * x + (B * gram + C * (gram @ gram)) @ x
    return (x if wide else x.T).to(matrix.dtype)
