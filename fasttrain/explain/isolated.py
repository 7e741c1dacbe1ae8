"""Runs a model, possibly in the middle of its training, without changing it.

Grad-CAM accepts any network, so whatever a forward pass writes must go to copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


@contextlib.contextmanager
def isolated(
    model: nn.Module, device: torch.device
) -> Iterator[Callable[[Callable[[], Result]], Result]]:
    """Set eval mode, gradients on and autocast off inside the block; restore all afterwards.

    Yields a function that calls another function while `model` holds float32 copies of its
    parameters and buffers, without gradients. Also restores training flags and torch's random
    state.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield lambda function: _with_copies(model, function)
    finally:
        for module, flag in flags:
            module.training = flag


class _Calling(nn.Module):
    """Calls `function` in place of `model` in functional_call, so that a backward fits in too."""

    def __init__(self, model: nn.Module, function: Callable[[], Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> Any:
        return self.function()


def _with_copies(model: nn.Module, function: Callable[[], Result]) -> Result:
    calling = _Calling(model, function)
    named: dict[str, Tensor] = {**dict(calling.named_parameters()), **dict(calling.named_buffers())}
    copies = {
        name: tensor.detach().to(torch.float32, copy=True)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in named.items()
    }
    result: Result = torch.func.functional_call(calling, copies, ())
    return result
