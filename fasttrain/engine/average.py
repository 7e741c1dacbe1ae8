"""An exponential moving average of a network's weights and buffers, kept beside the training.

It is torch's AveragedModel with an update of its own: torch's reads its count of updates on the
host, which would make every step wait for the device, and fix the decay in a captured graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import UsageError

WARM_UP = 9  # the decay of update n is at most n / (n + WARM_UP)


class Average(AveragedModel):
    """The average of `model`, whose every update n (from 0) moves it towards the model's numbers:

        average <- d average + (1 - d) model, with d = min(decay, n / (n + 9))

    The first update copies, as torch's does; after m more, d is min(decay, (1 + m) / (10 + m)).
    Without this warm-up, the average of a short run would mostly be of its first steps. Buffers are
    averaged too, but for whole numbers, which are copied. It is always in eval mode and has no
    gradients. Raises UsageError for a network that cannot be copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        try:
            super().__init__(model, device=next(model.parameters()).device, use_buffers=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UsageError(
                f"--ema ({decay:g}): this network cannot be copied "
                f"({str(error).splitlines()[0]}). Leave --ema out."
            ) from None
        self.decay = float(decay)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, skipped: Tensor | None = None) -> None:
        """Take the weights of `model` after a step into the average, without waiting.

        A `skipped` step, a bool () on the device, counts as none. Three launches of foreach.
        """
        averages, values = _tensors(self.module), _tensors(model)
        weight = 1 - (self.n_averaged / (self.n_averaged + WARM_UP)).clamp(max=self.decay)
        taken = 1 if skipped is None else ~skipped
        floats = [
            pair for pair in zip(averages, values, strict=True) if pair[0].is_floating_point()
        ]
        targets = [average for average, _ in floats]
        moves = torch._foreach_sub([value for _, value in floats], targets)
        torch._foreach_mul_(moves, weight * taken)
        torch._foreach_add_(targets, moves)
        for average, value in zip(averages, values, strict=True):
            if not average.is_floating_point():
                average.copy_(value)
        self.n_averaged.add_(taken)

    def restore(self, state: dict[str, Any] | None, model: nn.Module) -> None:
        """Load a state_dict in place; without one, begin anew with the numbers of `model`."""
        if state is not None:
            self.load_state_dict(state)
            return
        self.n_averaged.zero_()
        self.module.load_state_dict(model.state_dict())


def weights(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state_dict of the averaged network in that of an Average."""
    prefix = "module."
    found = {name: value for name, value in state.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
