"""Evaluation: loss and accuracy of a Step over all images of a Loader.

The sums stay on the device: the host waits for them once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data import Loader
from ..loaders.batches import checked
from ..profile.trace import span
from . import metrics
from .loss import cross_entropy
from .state import Hook, Run
from .step import Step


def evaluate(
    step: Step,
    loader: Loader,
    *,
    run: Run | None = None,
    on_batch: Sequence[Hook] = (),
    predict: Callable[[Tensor], Tensor] | None = None,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> tuple[float, float]:
    """Mean loss and accuracy (a fraction) over all images of `loader`, in eval mode.

    `predict` gives a batch's logits, by default `step.predict`; `total` is as for `fit`. Raises
    DataError if there are no images, UsageError if `step` cannot take the first batch.
    """
    return measure(step, loader, run, on_batch, predict or step.predict, total)[:2]


def measure(
    step: Step,
    loader: Loader,
    run: Run | None,
    on_batch: Sequence[Hook],
    predict: Callable[[Tensor], Tensor],
    total: Callable[[Tensor], Tensor],
    *,
    by_class: bool = False,
) -> metrics.Evaluation:
    """Evaluate, with the means over classes if `by_class`; arguments and errors as `evaluate`'s."""
    where = "evaluation" if run is None else f"epoch {run.epoch + 1}, evaluation"
    run, sums, counts = run or Run(phase="test"), metrics.zeros(step.device), None
    step.model.eval()
    with torch.no_grad():
        for images, labels in checked(loader, step, where):
            with span("eval"):
                logits = predict(images)
                metrics.update(sums, cross_entropy(logits, labels), logits, labels)
                if by_class:
                    counts = metrics.count(counts, logits, labels)
            for hook in on_batch:
                hook(run)
    return metrics.evaluation(total(sums if counts is None else torch.cat([sums, counts])))
