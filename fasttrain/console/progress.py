"""Shows the progress of a run: bars in a terminal, plain lines elsewhere.

The host never waits for the device here: the running metrics are copied without blocking, and shown
once the copy is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
)

from ..engine.state import Run
from .eta import Estimate, Plan, duration

REFRESH_SECONDS = 0.2
PLAIN_SECONDS = 30.0
TOO_LONG_ON_A_CPU = 3600.0


class ProgressLines:
    """Plain lines: a row per epoch, the progress after twenty steps and then twice a minute."""

    def __init__(self, log: Callable[[str], None], plan: Plan) -> None:
        self.log, self.plan, self.estimate = log, plan, Estimate(plan)
        self.shown_at = perf_counter()
        self.sums = RunningMetrics()
        self.warned = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        held = f"{self.plan.held_out:>4}"
        self.log(f"epoch  train loss  train acc  {held} loss  {held} acc        lr  images/s  left")
        yield

    def step(self, run: Run) -> None:
        now = perf_counter()
        if run.phase == "test":
            self.estimate.test_batch_done(now)
        else:
            self.estimate.step_done(now)
            if self.estimate.steps_seen == 5:
                self._warn_if_long(run)
        if now - self.shown_at > self.refresh_seconds() or self.estimate.steps_seen == 20:
            self.shown_at = now
            self.show(run)

    def refresh_seconds(self) -> float:
        return PLAIN_SECONDS

    def show(self, run: Run) -> None:
        if run.phase == "train":
            self.log(
                f"  epoch {run.epoch + 1}, step {run.step} of {self.plan.steps}: {self.state(run)}"
            )

    def state(self, run: Run) -> str:
        loss, accuracy = self.sums.read(run)
        speed, left = self.estimate.images_per_second, self.estimate.left(run)
        return (
            f"loss {loss:.3f}, accuracy {accuracy:6.2%}, {speed:,.0f} images/s, "
            f"{duration(left)} left"
        )

    def epoch(self, run: Run) -> None:
        self.estimate.epoch_done(perf_counter())
        row = run.history[-1]
        self.log(
            f"{row.epoch:5d}  {row.train_loss:10.4f}  {row.train_accuracy:9.2%}  "
            f"{row.test_loss:9.4f}  {row.test_accuracy:8.2%}  {row.lr:8.2g}  "
            f"{row.images_per_second:8,.0f}  {duration(self.estimate.left(run))}"
        )

    def _warn_if_long(self, run: Run) -> None:
        left = self.estimate.left(run)
        if self.plan.on_cpu and not self.warned and left and left > TOO_LONG_ON_A_CPU:
            self.warned = True
            faster = f" For a result today: {self.plan.faster}." if self.plan.faster else ""
            self.log(
                f"On this CPU, at {self.estimate.images_per_second:,.0f} images/s, the whole run "
                f"takes about {duration(left)}.{faster}"
            )


class ProgressBars(ProgressLines):
    """Two bars, for the current epoch and for the whole run, below the rows."""

    def __init__(self, log: Callable[[str], None], plan: Plan, console: Console) -> None:
        super().__init__(log, plan)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self.epoch_bar: TaskID = self.bars.add_task("epoch", total=1, state="")
        self.run_bar: TaskID = self.bars.add_task("run", total=1, state="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        with super().shown(), self.bars:
            yield

    def refresh_seconds(self) -> float:
        return REFRESH_SECONDS

    def show(self, run: Run) -> None:
        testing = run.phase == "test"
        title = f"epoch {run.epoch + 1}" + (f" {self.plan.held_out}" if testing else "")
        self.bars.update(
            self.epoch_bar,
            description=title,
            total=self.plan.steps,
            completed=run.step,
            state=f"{run.step}/{self.plan.steps}",
        )
        done = run.epoch * self.plan.steps + run.step
        self.bars.update(
            self.run_bar,
            total=self.plan.epochs * self.plan.steps,
            completed=done,
            state=self.state(run),
        )
        self.bars.refresh()


class RunningMetrics:
    """The newest running loss and accuracy that have been copied to the host."""

    def __init__(self) -> None:
        self.host: torch.Tensor | None = None
        self.arrived: torch.cuda.Event | None = None
        self.value = (float("nan"), float("nan"))

    def read(self, run: Run) -> tuple[float, float]:
        """Return (loss, accuracy) of the current epoch; on CUDA as of an earlier refresh."""
        if self.host is not None and (self.arrived is None or self.arrived.query()):
            self._read_copy()
        if run.sums is not None and self.host is None:
            self._start_copy(run.sums)
            if self.arrived is None:
                self._read_copy()
        return self.value

    def _start_copy(self, sums: torch.Tensor) -> None:
        if sums.is_cuda:
            self.host = torch.empty(len(sums), dtype=sums.dtype, pin_memory=True)
            self.host.copy_(sums, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.host, self.arrived = sums.clone(), None

    def _read_copy(self) -> None:
        assert self.host is not None
        loss, correct, images = self.host.tolist()[:3]
        self.value, self.host = (loss / max(images, 1), correct / max(images, 1)), None
