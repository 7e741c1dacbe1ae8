"""Finds the modules whose maps Grad-CAM shows.

fasttrain's networks name them; a user's own network need not know fasttrain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError


def stages(model: nn.Module, *, side: int) -> tuple[str, ...]:
    """The names of the modules whose maps Grad-CAM shows, the last one nearest to the logits.

    `model.stages`, if it is a tuple of names of modules; otherwise the last module that puts out a
    map (N, C, H, W) for images (N, 3, side, side), on the model's device. Raises UsageError if
    there is none.
    """
    given = getattr(model, "stages", None)
    modules = dict(model.named_modules())
    if isinstance(given, tuple) and given and all(name in modules for name in given):
        return given
    return (_last_map(model, side),)


def _last_map(model: nn.Module, side: int) -> str:
    """The module that finished last of those with a map; one of 1x1 only if there is no larger."""
    found: list[tuple[bool, str]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == 2:
                found.append((output.shape[2] * output.shape[3] > 1, name))

        return hook

    handles = [
        module.register_forward_hook(note(name)) for name, module in model.named_modules() if name
    ]
    weight = next(model.parameters())
    flags = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            model.eval()(torch.zeros(2, 3, side, side, device=weight.device, dtype=weight.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in flags:
            module.training = training
    names = [name for large, name in found if large] or [name for _, name in found]
    if not names:
        raise UsageError(
            f"model ({type(model).__name__}): no module of it puts out a map (N, C, H, W), which "
            "Grad-CAM needs. Give the model a tuple `stages` of module names."
        )
    return names[-1]
