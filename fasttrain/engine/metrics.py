"""The metrics of an epoch as running sums on the device, with the first step that is not finite.

A step adds to them, also inside a captured graph, and the host reads them once an epoch. Losses are
summed over images, because batches may differ in size. The number of recorded steps is one of the
sums, so that the sums of several processes can be added.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..errors import Diverged

# Indices into the sums: the first three are sums over images.
LOSS, CORRECT, IMAGES = range(3)
UNTIL = 3  # number of steps up to and including the first whose loss is not finite
LR, SCALE = 4, 5  # learning rate and loss scale of that step
SKIPPED, ROW, LONGEST = 6, 7, 8  # skipped fp16 steps: all, in a row now, most in a row
WEIGHTS = 9  # the largest weight or buffer
STEPS, FIRST = 10, 11  # recorded steps; learning rate of the first, negative if unknown
PLACES = 12
# Every process counts these itself, so that a sum over processes holds them once for each.
PER_PROCESS = [UNTIL, LR, SCALE, SKIPPED, ROW, LONGEST, STEPS, FIRST]

MOST_SKIPPED = 50  # in a row; 26 halvings take the first loss scale to the lowest
LOWEST_SCALE = 2.0**-10


class EpochMetrics(NamedTuple):
    """The metrics on the host: means over images, numbers of steps, rate and loss scale."""

    loss: float
    accuracy: float
    images: float
    until: int
    lr: float
    scale: float
    skipped: int
    longest: int
    first_lr: float
    weights: float


def zeros(device: torch.device) -> Tensor:
    """Empty sums: float64 (PLACES,) on `device`."""
    return torch.zeros(PLACES, dtype=torch.float64, device=device)


def start(sums: Tensor, lr: Tensor | float, before: Tensor | None = None) -> Tensor:
    """Make `sums` those of an epoch that begins at `lr`, or goes on from `before`; return them."""
    if before is not None:
        return sums.copy_(before)
    sums.zero_()
    sums[FIRST] = lr
    return sums


def record_step(
    sums: Tensor, lr: Tensor | float, *, scale: Tensor | None = None, skipped: Tensor | None = None
) -> None:
    """Record a step, its rate, loss scale and whether it was skipped; call it before `update`.

    A loss that is not finite makes the sum not finite for the rest of the epoch. Checking that sum
    is enough and costs five small kernels a step. A gradient that is not finite shows in the next
    loss, or in `record_weights`.
    """
    good = sums[LOSS] - sums[LOSS] == 0
    sums[UNTIL].add_(good)
    sums[STEPS].add_(1)
    rate = lr if isinstance(lr, Tensor) else torch.full((), lr, device=sums.device)
    torch.where(good, rate, sums[LR], out=sums[LR])
    if scale is not None and skipped is not None:
        torch.where(good, scale, sums[SCALE], out=sums[SCALE])
        sums[SKIPPED].add_(skipped)
        sums[ROW].add_(1).mul_(skipped)
        torch.maximum(sums[LONGEST], sums[ROW], out=sums[LONGEST])


def update(sums: Tensor, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Add the loss, the correct predictions and the images of a batch, on the device.

    Of shares (B, classes) the largest is the correct class. `sums[i] += x` would be two kernels.
    """
    classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
    sums[LOSS].add_(loss * len(labels))
    sums[CORRECT].add_((logits.argmax(dim=1) == classes).sum())
    sums[IMAGES].add_(len(labels))


def record_weights(sums: Tensor, model: nn.Module) -> None:
    """Record the largest absolute weight or buffer, which is not finite if any of them is not."""
    tensors = [t.detach() for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    sums[WEIGHTS] = get_total_norm(tensors, math.inf)


def compute(sums: Tensor, steps: int = 0) -> EpochMetrics:
    """Return the metrics of `steps` steps; the host waits for the device here."""
    loss, correct, images, *per_step, weights, recorded, first = sums.tolist()
    images, share = max(images, 1), steps / max(recorded, 1)
    until, lr, scale, skipped, _, longest = (value * share for value in per_step)
    means = loss / images, correct / images
    counts = round(skipped), round(longest)
    # Processes may notice it one step apart: their mean, rounded down, is the earlier step.
    return EpochMetrics(
        *means, images, int(until + 1e-6), lr, scale, *counts, first * share, weights
    )


def check_loss(loss: float, *, epoch: int, step: int) -> None:
    """Raise Diverged unless the loss of an evaluation is finite."""
    if not math.isfinite(loss):
        raise Diverged(
            f"evaluation loss ({loss}): not finite after epoch {epoch}, step {step}. "
            "Try a lower --lr; checkpoints hold only finite numbers."
        )


class Evaluation(NamedTuple):
    """The results of an evaluation: mean loss and accuracy, and means over classes.

    `balanced_accuracy` is the mean recall, `macro_f1` the mean F1; None if classes were not
    counted.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float | None = None
    macro_f1: float | None = None


def count(counts: Tensor | None, logits: Tensor, labels: Tensor) -> Tensor:
    """Add a batch to `counts`, float64 (3 * classes,), without waiting for the device.

    They are, for each class: its images, the predictions of it, and the correct ones.
    """
    classes = logits.shape[1]
    if counts is None:
        counts = torch.zeros(3 * classes, dtype=torch.float64, device=logits.device)
    answers = logits.argmax(dim=1)
    hits = (answers == labels).double()
    ones = torch.ones_like(hits)
    places = torch.cat([labels, answers + classes, labels + 2 * classes])
    return counts.index_add_(0, places, torch.cat([ones, ones, hits]))


def evaluation(sums: Tensor) -> Evaluation:
    """Compute the results from the sums of an evaluation, with the counts of `count` appended.

    The host waits for the device here, and only here.
    """
    values = sums.tolist()
    images = max(values[IMAGES], 1)
    loss, accuracy = values[LOSS] / images, values[CORRECT] / images
    if not (counts := values[PLACES:]):
        return Evaluation(loss, accuracy)
    size = len(counts) // 3
    classes = zip(counts[:size], counts[size : 2 * size], counts[2 * size :], strict=True)
    there = [(of, named, hits) for of, named, hits in classes if of or named]
    recalls = [hits / of for of, _, hits in there if of]
    f1 = [2 * hits / (of + named) for of, named, hits in there]
    means = sum(recalls) / max(len(recalls), 1), sum(f1) / max(len(f1), 1)
    return Evaluation(loss, accuracy, *means)


def current(rows: Tensor, steps: int) -> Tensor:
    """Convert saved sums (processes, places) of `steps` steps to today's format.

    The first release counted everything in images and did not record the first rate.
    """
    if rows.shape[1:] != (STEPS,):
        return rows
    made = rows.new_zeros(len(rows), PLACES)
    made[:, :STEPS], made[:, STEPS], made[:, FIRST] = rows, steps, -1
    made[:, UNTIL:WEIGHTS] *= steps / rows[:, IMAGES, None].clamp(min=1)
    return made


def raise_if_diverged(found: EpochMetrics, *, epoch: int, step: int) -> None:
    """Raise Diverged, with step, rate and loss scale, if the metrics at `step` are not finite."""
    if not math.isfinite(found.loss):
        what, step = f"training loss ({found.loss}): not finite", found.until
    elif not math.isfinite(found.weights):
        what = f"weights ({found.weights}): not finite"
    elif found.longest > MOST_SKIPPED:
        what = f"loss scale ({found.scale:g}): {found.longest} fp16 steps in a row were skipped"
    elif 0 < found.scale < LOWEST_SCALE:
        what = f"loss scale ({found.scale:g}): under its floor of {LOWEST_SCALE:g}"
    else:
        return
    scale = f"loss scale {found.scale:g}" if found.scale else "no loss scale"
    raise Diverged(
        f"{what} in epoch {epoch}, at step {step}, at lr {found.lr:g}, {scale}. "
        "Try a lower --lr; checkpoints hold only finite numbers."
    )
