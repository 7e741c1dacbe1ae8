"""Muon: SGD that makes the updates of filters orthogonal, so that all directions learn equally.

Jordan et al., 2024 (kellerjordan.github.io/posts/muon). torch.optim.Muon does not accept filters,
which have four dimensions. This optimizer updates the other parameters too.
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
# Learning rates of biases and head if that of the filters is 1: airbench's 0.053 and 0.67 against
# 0.24. The update of a filter has a fixed size, the others have the size of their gradient.
BIAS_RATE, HEAD_RATE = 0.22, 2.8


class Muon(torch.optim.Optimizer):
    """Nesterov momentum for all parameters of `model`; filters (4-d) get orthogonal updates.

    The filters of a layer keep the norm sqrt(number of filters), so that `lr` is the size of an
    update relative to the weights. Filters use `filter_momentum`; the other parameters use
    `momentum` and `weight_decay` (L2). The first group is that of the filters, also if all filters
    are frozen; the rates of the other groups keep their ratio to it. A GradScaler's scale and
    overflow flag are read on the device. Without `decay_norms` only the matrices have weight decay.
    Raises UsageError if no parameter is trainable, or if one has a shape that no group accepts.
    """

    # A GradScaler then hands over its tensors; otherwise the host would wait for the flag.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: Tensor,
        momentum: float,
        weight_decay: float,
        filter_momentum: float = 0.6,
        decay_norms: bool = True,
        bias_rate: float = BIAS_RATE,
    ) -> None:
        trainable = [p for p in model.parameters() if p.requires_grad]
        _check_parameters(model)
        momentum, weight_decay = float(momentum), float(weight_decay)
        kinds = (
            ((4,), 1.0, float(filter_momentum), 0.0),
            ((0, 1), float(bias_rate), momentum, weight_decay if decay_norms else 0.0),
            ((2,), HEAD_RATE, momentum, weight_decay),
        )
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in trainable if p.ndim in dimensions],
                "lr": lr * ratio,
                "ratio": ratio,
                "momentum": m,
                "weight_decay": decay,
            }
            for dimensions, ratio, m, decay in kinds
        ]
        filters, *rest = groups
        super().__init__([filters, *(g for g in rest if g["params"])], {})
        for parameter in trainable:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, without waiting for the device."""
        with torch.enable_grad():
            loss = closure() if closure else None
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        skip = None if found_inf is None else found_inf != 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradient = parameter.grad if scale is None else parameter.grad / scale
                    self._update_unless(skip, parameter, gradient, group)
        return loss

    def _update_unless(
        self, skip: Tensor | None, parameter: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        """Update a parameter, and take it back where `skip` is true: the host does not know it."""
        velocity = self.state[parameter]["momentum_buffer"]
        changed = () if skip is None else (parameter, velocity)
        before = [tensor.clone() for tensor in changed]
        self._update(parameter, velocity, gradient, group)
        for tensor, old in zip(changed, before, strict=True):
            torch.where(skip, old, tensor, out=tensor)  # type: ignore[arg-type]

    def _update(
        self, parameter: Tensor, velocity: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
        velocity.mul_(group["momentum"]).add_(gradient)
        update = gradient.add_(velocity, alpha=group["momentum"])
        if parameter.ndim == 4:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            # A view in channels_last order; the order of the columns does not change the result.
            flat = update.permute(0, 2, 3, 1).flatten(1)
            whole = orthogonal(flat).view(len(flat), *update.shape[2:], update.shape[1])
            update = whole.permute(0, 3, 1, 2)
        parameter.sub_(update * group["lr"])


def _check_parameters(model: nn.Module) -> None:
    """Raise UsageError if no parameter is trainable, or if one has an unsupported shape."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UsageError(
            "Muon (0 parameters): no parameter is trainable. Set requires_grad of some."
        )
    for name, p in trainable.items():
        if p.ndim not in (0, 1, 2, 4):
            raise UsageError(
                f"Muon ({name} of shape {tuple(p.shape)}): supports filters of 4 dimensions, "
                "matrices and biases. Freeze it, or use SGD."
            )


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximate the orthogonal factor of `matrix` (rows, columns), in bfloat16.

    The singular values of the result are between 0.7 and 1.2.
    """
    x = matrix.bfloat16()
    wide = len(x) <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = A * x + (B * gram + C * (gram @ gram)) @ x
    return (x if wide else x.T).to(matrix.dtype)
