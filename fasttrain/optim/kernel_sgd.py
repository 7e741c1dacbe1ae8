"""torch.optim.SGD whose step is one launch of the kernel in `kernels.sgd` for each group.

It keeps a table with the addresses of parameters, gradients and momenta for the kernel. All else is
inherited, so that schedules, a GradScaler and checkpoints work as with torch's own SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class KernelSGD(torch.optim.SGD):
    """torch.optim.SGD whose step is one launch of our kernel per group; states are torch's own.

    Parameters are float32 and dense, on a GPU. Each of the two optimizers loads a state_dict of the
    other; missing momentum counts as zeros. A GradScaler's scale and overflow flag are read on the
    device, and the gradients stay scaled.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: Tensor | float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            fused=True,  # makes a GradScaler pass its tensors
        )
        self._reset_tables()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, without waiting for the device."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for index, group in enumerate(self.param_groups):
            if group["dampening"] or group["maximize"]:
                raise ValueError("KernelSGD supports neither dampening nor maximize")
            self._update(index, group)
        return loss

    def _update(self, index: int, group: dict[str, Any]) -> None:
        from kernels.sgd import sgd_

        params = [param for param in group["params"] if param.grad is not None]
        if not params:
            return
        grads = [_with_layout_of(param, param.grad) for param in params]
        momenta = [self._momentum(param) for param in params] if group["momentum"] else grads
        sgd_(
            self._table(index, params, grads, momenta),
            _rate(group, params[0].device),
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
        )

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        found = state.get("momentum_buffer")
        found = torch.zeros_like(param) if found is None else _with_layout_of(param, found)
        state["momentum_buffer"] = found
        return found

    def _table(self, index: int, *kinds: list[Tensor]) -> Tensor:
        """The addresses of group `index`'s tensors, on the device; copied again if one changes."""
        from kernels.sgd import rows

        device = kinds[0][0].device
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # Each replay of the graph copies this table again: its host memory must stay alive.
            self._captured.append(rows(*kinds).pin_memory())
            return self._captured[-1].to(device, non_blocking=True)
        addresses = [tensor.data_ptr() for kind in kinds for tensor in kind]
        if self._tables.get(index, (None,))[0] != addresses:
            _check_parameters(kinds[0])
            found = rows(*kinds)
            pinned = found.pin_memory() if device.type == "cuda" else found
            self._tables[index] = addresses, pinned.to(device, non_blocking=True)
        return self._tables[index][1]

    def _reset_tables(self) -> None:
        self._tables: dict[int, tuple[list[int], Tensor]] = {}
        self._captured: list[Tensor] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset_tables()


def _check_parameters(params: list[Tensor]) -> None:
    """Raise ValueError for parameters that the kernel cannot update."""
    for param in params:
        dense = torch.ops.aten.is_non_overlapping_and_dense(param)
        if param.dtype != torch.float32 or not dense:
            raise ValueError(
                f"KernelSGD updates dense float32 parameters, not {param.dtype} "
                f"of shape {tuple(param.shape)} and strides {param.stride()}"
            )


def _with_layout_of(param: Tensor, other: Tensor) -> Tensor:
    """`other` itself if its memory layout is that of `param`, else a copy with that layout."""
    if other.stride() == param.stride():
        return other
    # A dimension of size 1 may have any stride: 1x1 convolutions in channels_last do.
    sides = zip(param.shape, param.stride(), other.stride(), strict=True)
    if all(one == two for size, one, two in sides if size > 1):
        return other
    return torch.empty_like(param).copy_(other)


def _rate(group: dict[str, Any], device: torch.device) -> Tensor:
    """The group's learning rate on `device`; replaces a number that a schedule has set."""
    rate = group["lr"]
    if not isinstance(rate, Tensor) or rate.device != device:
        rate = group["lr"] = torch.full((), float(rate), device=device)
    return rate
