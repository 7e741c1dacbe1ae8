"""The gradients of a training step: of the whole batch at once, or in parts for less memory.

A Step is given one of these functions, so that it is the same step with either.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Gradients = Callable[[Loss, Callable[[Tensor], Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the loss function, a loss scale, images and labels; adds the gradients of the mean loss to
the weights' and returns the loss () and the logits (B, classes)."""


def whole(
    loss_of: Loss, scale: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a batch in one forward and one backward pass."""
    loss, logits = loss_of(images, labels)
    scale(loss).backward()
    return loss, logits


def in_parts(
    count: int, unsynced: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Gradients:
    """Return a function that computes the gradients of a batch in `count` parts, one by one.

    The activations of one part are in memory at a time. The gradients are those of the mean loss
    over the whole batch, but BatchNorm normalises each part by itself. All parts but the last run
    inside `unsynced()`, so that several processes communicate once a step.
    """

    def gradients(
        loss_of: Loss, scale: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        size = -(-len(labels) // count)
        parts = list(zip(images.split(size), labels.split(size), strict=True))
        losses, logits = [], []
        for number, part in enumerate(parts, 1):
            with unsynced() if number < len(parts) else nullcontext():
                loss, found = loss_of(*part)
                loss = loss * (len(part[1]) / len(labels))
                scale(loss).backward()
            losses.append(loss.detach())
            logits.append(found.detach())
        return torch.stack(losses).sum(), torch.cat(logits)

    return gradients
