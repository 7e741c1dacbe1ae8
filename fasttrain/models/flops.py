"""Counts a network's floating-point operations, for MFU and for what an accuracy costs.

torch counts them by operator, so that any network can be counted.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def training_flops(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Return the floating-point operations to train on one image, forward and backward.

    Counts convolutions and linear layers, a multiply-add as two. Uses torch's counter on a copy of
    the model on the meta device, or where the model is if its forward looks at numbers.
    """
    try:
        return _training_flops(copy.deepcopy(model).to("meta"), shape, torch.device("meta"))
    except (RuntimeError, NotImplementedError):  # what torch raises where a number is asked for
        device = next(model.parameters()).device
        return _training_flops(copy.deepcopy(model), shape, device)


def _training_flops(twin: nn.Module, shape: tuple[int, int, int], device: torch.device) -> int:
    images = torch.zeros(2, *shape, device=device)  # BatchNorm rejects a batch of one
    with FlopCounterMode(display=False) as counter, torch.random.fork_rng(devices=[]):
        twin.train()(images).sum().backward()
    return counter.get_total_flops() // 2
