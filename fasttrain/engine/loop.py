"""The training loop: `fit` trains a Step on a Loader and evaluates it after each epoch.

Arguments do the work and hooks only observe it. In each epoch the host waits for the device twice:
once to read the training sums and once to read the test sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Protocol

from torch import Tensor, nn

from ..data import Batch, Loader
from ..loaders.batches import checked
from ..profile.trace import span
from . import evaluation, metrics, monitors
from .state import Epoch, Hook, Run
from .step import Step


class Schedule(Protocol):
    """Changes the learning rate after each step or each epoch."""

    def after_step(self) -> None: ...

    def after_epoch(self, score: float) -> None: ...


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
    by_class: bool = False,
) -> list[Epoch]:
    """Train for `epochs`, or until `until(run)` is true; evaluate after each; return the history.

    `on_step` hooks run after each training step and each test batch (`run.phase` is "train" or
    "test"), `on_epoch` hooks after each epoch. Pass `run` to continue it; seek `train` to its place
    first. With several processes `total` sums a tensor over them and `sync_buffers` makes the
    model's buffers equal. `schedule` follows `monitor`, of the trained network also where the step
    has an average, which is evaluated too; `by_class` adds the means over classes to each row,
    which a monitor of them does in any case. Raises Diverged after an epoch with numbers that are
    not finite, DataError after one without images, UsageError if `step` cannot take one.
    """
    run, by_class = run or Run(), by_class or monitor in monitors.UNEQUAL
    while run.epoch < epochs and not until(run):
        run.sums = metrics.start(step.sums, step.lr, run.sums)
        run.phase, began = "train", perf_counter() - run.seconds
        step.model.train()
        batches = checked(train, step, f"epoch {run.epoch + 1}, training", begun=run.step > 0)
        for images, labels in _timed_batches(batches, run):
            with span("step"):
                run.loss, _ = step(images, labels)
                schedule.after_step()
            run.step += 1
            run.seconds = perf_counter() - began
            for hook in on_step:
                hook(run)
        sync_buffers(step.model)
        found = read_metrics(step, run, total)
        run.seconds = perf_counter() - began
        run.phase, began = "test", perf_counter()
        held = evaluation.measure(step, test, run, on_step, step.predict, total, by_class=by_class)
        averaged: tuple[float | None, ...] = ()
        if step.average is not None:
            sync_buffers(step.average)
            averaged = evaluation.measure(
                step, test, run, on_step, step.predict_averaged, total, by_class=by_class
            )
        run.eval_seconds += perf_counter() - began
        metrics.check_loss(held.loss, epoch=run.epoch + 1, step=run.step)
        run.epoch += 1
        run.history.append(_row(run, found, held, averaged))
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


def _row(
    run: Run,
    found: metrics.EpochMetrics,
    held: metrics.Evaluation,
    averaged: tuple[float | None, ...],
) -> Epoch:
    """The row of the history for the epoch that `run` has just finished."""
    row = (run.epoch, found.lr, found.loss, found.accuracy, held.loss, held.accuracy)
    times = (run.seconds, found.images / run.seconds, run.data_wait_seconds)
    first = None if found.first_lr < 0 else found.first_lr
    return Epoch(*row, *times, found.skipped, first, *held[2:], *averaged)


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
