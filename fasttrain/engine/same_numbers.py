"""Compares what one training step computes with what the float32 reference computes.

A fast path that computes something else is not taken: a wrong convolution in bf16, a NaN of a
compiler, an update that is missing in a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..data import Batch
from .state import random_state
from .step import Step

LR = 0.01  # of the compared step: large enough that rounding the weights is not the difference
OVERFLOWS = 24  # steps that a loss scale may skip, halving each time, before one counts


class Tolerance(NamedTuple):
    """What a precision may differ by: relative differences of loss and logits, and a cosine.

    Rounding grows on its way back through a deep network whose gradients nearly cancel, as they do
    before training: bf16 updates ResNet50 at a cosine of 0.3 to float32. A wrong gradient of
    millions of weights is at one of nearly 0. Measured on CPUs, at batches of 16 to 128.
    """

    loss: float
    logits: float
    cosine: float


TOLERANCES = {
    "off": Tolerance(0.01, 0.05, 0.9),  # TF32 multiplies 10 bits, and compiled sums are reordered
    "fp16": Tolerance(0.02, 0.1, 0.5),
    "bf16": Tolerance(0.05, 0.3, 0.05),
}
LONGER = 2.0  # at most so many times as long, or as short, is an update


class Outcome(NamedTuple):
    """What a step computed: its loss, its logits, and by how much it moved every weight.

    `random` tells that the network draws random numbers, which differ between precisions.
    """

    loss: Tensor
    logits: Tensor
    update: Sequence[Tensor]
    random: bool


def outcome(step: Step, batch: Batch) -> Outcome:
    """Train `step` on `batch` once, or until its loss scale no longer skips it."""
    weights = [weight for weight in step.model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in weights]
    drawn = random_state(step.device)
    step.lr = LR
    for _ in range(OVERFLOWS):
        loss, logits = (tensor.detach().float().clone() for tensor in step(*batch))
        update = [weight.detach() - old for weight, old in zip(weights, before, strict=True)]
        if any(bool(each.any()) for each in update):
            break
    after = random_state(step.device)
    return Outcome(loss, logits, update, any(not torch.equal(drawn[k], after[k]) for k in drawn))


def difference(found: Outcome, expected: Outcome, amp: str) -> str | None:
    """Why `found`, computed in `amp`, is not what the reference computed; None if it is."""
    allowed = TOLERANCES[amp]
    apart = _norm([found.loss - expected.loss]) / _norm([expected.loss])
    if not apart <= allowed.loss:  # also NaN
        return f"its loss differs from the reference by {apart:.1%}, over {allowed.loss:.0%}"
    if expected.random:
        return None
    apart = _norm([found.logits - expected.logits]) / _norm([expected.logits])
    if not apart <= allowed.logits:
        return f"its logits differ from the reference by {apart:.1%}, over {allowed.logits:.0%}"
    ours, theirs = _norm(found.update), _norm(expected.update)
    if not 1 / LONGER <= ours / theirs <= LONGER:
        return f"its update of the weights is {ours / theirs:.3g} times as long as the reference's"
    pairs = zip(found.update, expected.update, strict=True)
    cosine = sum(float((a * b).sum()) for a, b in pairs) / (ours * theirs)
    if not cosine >= allowed.cosine:
        return (
            f"its update of the weights points elsewhere than the reference's (cosine "
            f"{cosine:.2f}, under {allowed.cosine:g})"
        )
    return None


def _norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all tensors together, never 0."""
    return max(sum(float(each.square().sum()) for each in tensors) ** 0.5, 1e-30)
