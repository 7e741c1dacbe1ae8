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
FIRST_LINE = 20  # steps
READ_SECONDS = 0.1  # between two copies of the sums, from the first line on
TOO_LONG_ON_A_CPU = 3600.0


class ProgressLines:
    """Plain lines: a row per epoch, the progress after twenty steps and then twice a minute."""

    def __init__(self, log: Callable[[str], None], plan: Plan) -> None:
        self.log, self.plan, self.estimate = log, plan, Estimate(plan)
        self.shown_at = self.read_at = perf_counter()
        self.steps, self.due = 0, False
        self.running = RunningMetrics()
        self.warned = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        held = f"{self.plan.held_out:>4}"
        self.log(f"epoch  train loss  train acc  {held} loss  {held} acc        lr  images/s  left")
        yield

    def step(self, run: Run) -> None:
        now = perf_counter()
        training = run.phase == "train"
        if not self.steps:
            self.estimate.begin(run.step - 1, run.seconds)
        self.steps += training
        self.due |= now - self.shown_at > self.refresh_seconds()
        self.due |= training and self.steps == FIRST_LINE
        if self.due or self.steps <= FIRST_LINE or now - self.read_at > READ_SECONDS:
            self.read_at = now
            self.running.send(run)
        arrived = self.running.arrived()
        if not training:
            self.estimate.reached(run.step, run.seconds)  # the loop has waited for the device
        elif arrived:
            self.estimate.reached(self.running.step, run.seconds)
            self._warn_if_long(run)
        if self.due and arrived:
            self.shown_at, self.due = now, False
            self.show(run)

    def refresh_seconds(self) -> float:
        return PLAIN_SECONDS

    def show(self, run: Run) -> None:
        if run.phase == "train":
            self.log(
                f"  epoch {run.epoch + 1}, step {self.running.step} of {self.plan.steps}: "
                f"{self.state(run)}"
            )

    def state(self, run: Run) -> str:
        state = f"loss {self.running.loss:.3f}, accuracy {self.running.accuracy:6.2%}"
        left = self.estimate.left(run)
        if left is None:
            return state
        return f"{state}, {self.estimate.images_per_second:,.0f} images/s, {duration(left)} left"

    def epoch(self, run: Run) -> None:
        self.estimate.begin()
        self.running.forget()
        row = run.history[-1]
        self.log(
            f"{row.epoch:5d}  {row.train_loss:10.4f}  {row.train_accuracy:9.2%}  "
            f"{row.test_loss:9.4f}  {row.test_accuracy:8.2%}  {row.lr:8.2g}  "
            f"{row.images_per_second:8,.0f}  {duration(self.estimate.left(run))}{_averaged(run)}"
        )

    def _warn_if_long(self, run: Run) -> None:
        left = self.estimate.left(run) or 0.0
        timed = self.estimate.timed_steps >= 3
        if self.plan.on_cpu and timed and not self.warned and left > TOO_LONG_ON_A_CPU:
            self.warned = True
            faster = f" For a result today: {self.plan.faster}." if self.plan.faster else ""
            self.log(
                f"On this CPU, at {self.estimate.images_per_second:,.0f} images/s, the whole run "
                f"takes about {duration(left)}.{faster}"
            )


def _averaged(run: Run) -> str:
    found = run.history[-1].ema_test_accuracy
    return "" if found is None else f"  average {found:.2%}"


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
            completed=self.running.step,
            state=f"{self.running.step}/{self.plan.steps}",
        )
        done = run.epoch * self.plan.steps + self.running.step
        self.bars.update(
            self.run_bar,
            total=self.plan.epochs * self.plan.steps,
            completed=done,
            state=self.state(run),
        )
        self.bars.refresh()


class RunningMetrics:
    """The newest loss and accuracy of the current epoch that reached the host, and their step.

    A GPU may be hundreds of steps behind the host that launches them. The copy of the sums is one
    more launch; the host looks whether it has arrived, and never waits for it.
    """

    def __init__(self) -> None:
        self.step, self.loss, self.accuracy = 0, float("nan"), float("nan")
        self._copy: torch.Tensor | None = None
        self._event: torch.cuda.Event | None = None
        self._sent = 0

    def send(self, run: Run) -> None:
        """Start to copy the sums of `run` to the host, unless a copy is under way."""
        if run.sums is not None and self._copy is None:
            self._copy, self._event = _to_host(run.sums)
            self._sent = run.step

    def arrived(self) -> bool:
        """Whether a copy has arrived since the last call; its numbers are then the newest."""
        if self._copy is None or not (self._event is None or self._event.query()):
            return False
        loss, correct, images = self._copy.tolist()[:3]
        self.loss, self.accuracy = loss / max(images, 1), correct / max(images, 1)
        self.step, self._copy = self._sent, None
        return True

    def forget(self) -> None:
        """Drop a copy that is under way: its epoch is over."""
        self._copy, self.step = None, 0


def _to_host(sums: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """A copy on the host, and the event that says when it has arrived; None if it has."""
    if not sums.is_cuda:
        return sums.clone(), None
    copy = torch.empty(len(sums), dtype=sums.dtype, pin_memory=True)
    copy.copy_(sums, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event
