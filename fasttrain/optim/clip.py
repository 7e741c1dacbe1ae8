"""Limits the norm of all gradients together, before each update of an optimizer.

It is a hook of the optimizer, so that a step without it is as it was. All stays on the device.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer


def clip_gradients(optimizer: Optimizer, norm: float) -> None:
    """Make `optimizer` scale all its gradients before each update, to an L2 norm of at most `norm`.

    Gradients that a GradScaler has scaled are measured by their unscaled norm. A norm that is not
    finite makes all gradients NaN: training then ends as without clipping, instead of going on with
    an update of zero, which is what torch makes of an infinite norm.
    """
    optimizer.register_step_pre_hook(partial(_clip, norm=float(norm)))


@torch.no_grad()
def _clip(optimizer: Optimizer, args: Any, keywords: Any, *, norm: float) -> None:
    weights = [w for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
    total = get_total_norm([weight.grad for weight in weights])
    scale = getattr(optimizer, "grad_scale", None)  # set where the optimizer is to unscale them
    total = total if scale is None else total / scale
    clip_grads_with_norm_(weights, norm, total.masked_fill(total.isinf(), math.nan))
