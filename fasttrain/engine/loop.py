"""The training loop: `fit` trains a Step on a Loader, `evaluate` measures loss and accuracy.

Arguments do the work and hooks only observe it. In each epoch the host waits for the device twice:
once to read the training sums and once to read the test sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..data import Batch, Loader
from ..loaders import contract
from ..profile.trace import span
from . import metrics, monitors
from .step import Step, cross_entropy


class Epoch(NamedTuple):
    """One row of the history: accuracies are fractions, times are seconds.

    `test_` is of the images that choose. `seconds` is training alone. `lr` is of the last step,
    `first_lr` of the first (None in older runs). `skipped_steps` counts overflows of fp16.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float
    data_wait_seconds: float
    skipped_steps: int = 0
    first_lr: float | None = None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None


class Schedule(Protocol):
    """Changes the learning rate after each step or each epoch."""

    def after_step(self) -> None: ...

    def after_epoch(self, score: float) -> None: ...


@dataclasses.dataclass
class Run:
    """The progress of a training: what hooks read and checkpoints store.

    `epoch` counts finished epochs, `step` the finished steps of the current epoch. `sums` holds the
    metrics of the current epoch; it stays on the device.
    """

    epoch: int = 0
    step: int = 0
    phase: str = "train"
    sums: Tensor | None = None
    loss: Tensor | None = None
    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    eval_seconds: float = 0.0
    history: list[Epoch] = dataclasses.field(default_factory=list)


Hook = Callable[[Run], None]


def fit(
    step: Step,
    train: Loader,
    test: Loader,
    schedule: Schedule,
    epochs: int,
    *,
    run: Run | None = None,
    on_step: Sequence[Hook] = (),
    on_epoch: Sequence[Hook] = (),
    until: Callable[[Run], bool] = lambda run: False,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
    sync_buffers: Callable[[nn.Module], object] = lambda model: None,
    monitor: str = "accuracy",
) -> list[Epoch]:
    """Train for `epochs`, or until `until(run)` is true; evaluate after each; return the history.

    `on_step` hooks run after each training step and each test batch (`run.phase` is "train" or
    "test"), `on_epoch` hooks after each epoch. Pass `run` to continue it; seek `train` to its place
    first. With several processes `total` sums a tensor over them and `sync_buffers` makes the
    model's buffers equal. `schedule` follows `monitor`. Raises Diverged after an epoch with numbers
    that are not finite, DataError after one without images, UsageError if `step` cannot take one.
    """
    run = run or Run()
    while run.epoch < epochs and not until(run):
        sums = run.sums = metrics.zeros(step.device) if run.sums is None else run.sums
        run.phase, began = "train", perf_counter() - run.seconds
        step.model.train()
        batches = contract.batches(
            train, step, f"epoch {run.epoch + 1}, training", begun=run.step > 0
        )
        for images, labels in _timed_batches(batches, run):
            with span("step"):
                run.loss, logits = step(images, labels)
                if run.step == 0:
                    metrics.start(sums, step.lr)
                metrics.record_step(sums, step.lr, scale=step.scale, skipped=step.skipped)
                metrics.update(sums, run.loss, logits, labels)
                schedule.after_step()
            run.step += 1
            run.seconds = perf_counter() - began
            for hook in on_step:
                hook(run)
        sync_buffers(step.model)
        found = read_metrics(step, run, total)
        run.seconds = perf_counter() - began
        run.phase, began = "test", perf_counter()
        held = _evaluate(step, test, run, on_step, step.predict, total, monitor)
        run.eval_seconds += perf_counter() - began
        metrics.refuse_loss(held.loss, epoch=run.epoch + 1, step=run.step)
        run.epoch += 1
        row = (run.epoch, found.lr, found.loss, found.accuracy, held.loss, held.accuracy)
        times = (run.seconds, found.images / run.seconds, run.data_wait_seconds)
        first = None if found.first_lr < 0 else found.first_lr
        run.history.append(Epoch(*row, *times, found.skipped, first, *held[2:]))
        schedule.after_epoch(monitors.score(run.history[-1], monitor))
        run.step, run.sums, run.seconds, run.data_wait_seconds = 0, None, 0.0, 0.0
        for hook in on_epoch:
            hook(run)
    return run.history


def read_metrics(
    step: Step, run: Run, total: Callable[[Tensor], Tensor] = lambda sums: sums
) -> metrics.EpochMetrics:
    """The metrics of the current epoch so far; waits for the device. Diverged if not finite."""
    assert run.sums is not None
    metrics.record_weights(run.sums, step.model)
    found = metrics.compute(total(run.sums), run.step)
    metrics.raise_if_diverged(found, epoch=run.epoch + 1, step=run.step)
    return found


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
    return _evaluate(step, loader, run, on_batch, predict or step.predict, total)[:2]


def _evaluate(
    step: Step,
    loader: Loader,
    run: Run | None,
    on_batch: Sequence[Hook],
    predict: Callable[[Tensor], Tensor],
    total: Callable[[Tensor], Tensor],
    monitor: str = "accuracy",
) -> metrics.Evaluation:
    where = "evaluation" if run is None else f"epoch {run.epoch + 1}, evaluation"
    run, sums, counts = run or Run(phase="test"), metrics.zeros(step.device), None
    step.model.eval()
    with torch.no_grad():
        for images, labels in contract.batches(loader, step, where):
            with span("eval"):
                logits = predict(images)
                metrics.update(sums, cross_entropy(logits, labels), logits, labels)
                if monitor in monitors.UNEQUAL:
                    counts = metrics.count(counts, logits, labels)
            for hook in on_batch:
                hook(run)
    return metrics.evaluation(total(sums if counts is None else torch.cat([sums, counts])))


def _timed_batches(loader: Iterable[Batch], run: Run) -> Iterator[Batch]:
    """Yield the batches of `loader`; add the time spent waiting to `run.data_wait_seconds`."""
    batches = iter(loader)
    while True:
        began = perf_counter()
        with span("data"):
            batch = next(batches, None)
        run.data_wait_seconds += perf_counter() - began
        if batch is None:
            return
        yield batch
