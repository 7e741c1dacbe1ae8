"""Times torch.compile on the step of a recipe, with and without two switches of its inductor.

On a CPU, and with images in channels_last, inductor may lose what oneDNN and cuDNN gain: it may
choose another layout for the gradients of convolutions. The switches are said to help there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..engine.build import AMP, build
from .measure import Workload
from .probe import Rate, step_rate, timed

# As TORCHINDUCTOR_FORCE_LAYOUT_OPT=1 and TORCHINDUCTOR_LOOP_REINDEXING_AFTER_FUSION=0.
SWITCHES = {"force_layout_optimization": True, "loop_reindexing_after_fusion": False}


def compiled_rates(
    load: Workload, *, seconds: float, log: Callable[[str], None]
) -> dict[str, Rate]:
    """Time and log the eager step, the compiled one, the one with both switches, and BatchNorm.

    `seconds` is for each, beside compiling it, which takes from half a minute to some minutes.
    """
    found = {}
    for name, compiled, switched in [
        ("step, eager", "off", False),
        ("step, compiled", "on", False),
        ("step, compiled, switches", "on", True),
    ]:
        with _switched(switched):
            recipe = replace(load.recipe, compile=compiled, loader="resident", tune="off")
            step = build(recipe, load.data).step
            found[name] = step_rate(step, load.batch, seconds=seconds)
        log(f"{name:24} {found[name]}")
    for name, compiled in [("norm + ReLU, eager", "off"), ("norm + ReLU, compiled", "on")]:
        found[name] = _norm_rate(load, compile=compiled == "on", seconds=seconds)
        log(f"{name:24} {found[name]}")
    return found


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    """Compile anew inside the block, with the switches if `on`."""
    from torch._inductor import config

    torch._dynamo.reset()
    with config.patch(SWITCHES if on else {}):
        yield


def _norm_rate(load: Workload, *, compile: bool, seconds: float) -> Rate:
    """Images per second of BatchNorm and ReLU alone, forward and backward, on 64 channels."""
    device, amp = load.built.device, AMP[load.built.choices["amp"].value]
    count, _, side, _ = load.batch.images.shape
    norm = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU()).to(device)
    call: Callable[[Any], Any] = torch.compile(norm, dynamic=False) if compile else norm
    maps = torch.randn(count, 64, side, side, device=device, dtype=amp or torch.float32)
    maps = maps.to(memory_format=torch.channels_last).requires_grad_()

    def work() -> int:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            out = call(maps)
        torch.autograd.grad(out, (maps, *norm.parameters()), torch.ones_like(out))
        return count

    return timed(work, device, seconds)
