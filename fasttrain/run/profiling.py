"""`--profile`: records a few steps of a run and summarises where their time went.

A trace holds every detail but must be opened in a viewer; ten lines answer most questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from ..console.console import Display
from ..engine.build import Built
from ..engine.state import Epoch, Run
from ..profile.timeline import describe, read, summarise
from ..profile.trace import trace, window
from ..storage import atomic
from ..storage.encode import encode
from .rundir import RunDir


class Profiling:
    """The trace of one run, from the hook that records it to its summary."""

    def __init__(self, folder: RunDir, display: Display) -> None:
        self.folder, self.display = folder, display
        self.epoch = 0
        self.written: list[Path] = []

    def record(self, built: Built, run: Run) -> AbstractContextManager[Callable[[object], None]]:
        """Open the `on_step` hook that records the end of the current epoch of `run`."""
        self.epoch = run.epoch + 1
        skip, active = window(len(built.train) - run.step, len(built.test))
        return trace(self.folder.tensorboard, skip=skip, active=active, written=self.written.append)

    def report(self, built: Built, run: Run) -> None:
        """Print where the recorded steps spent time; write profile.txt and profile.json."""
        found = summarise(read(self.written[-1])) if self.written else None
        if found is None:
            self.display.log("profile: the run ended before a whole step was recorded")
            return
        row = nearest(run.history, self.epoch)
        untraced = row.seconds / len(built.train) if row else None
        text = describe(found, untraced=untraced, epoch=row.epoch if row else None)
        numbers = {
            "trace": self.written[-1].name,
            "untraced_step_seconds": untraced,
            "untraced_epoch": row.epoch if row else None,
        }
        self.folder.write_json("profile.json", {**numbers, **found.as_dict()})
        atomic.write_atomically(self.folder.path / "profile.txt", encode(text + "\n"))
        self.display.log(text)
        self.display.log(f"  trace: {self.written[-1]}")


def nearest(history: Sequence[Epoch], epoch: int) -> Epoch | None:
    """Return the row of the epoch nearest to `epoch`, the later of two; None if there is none.

    The speed of a machine drifts during training, so a distant epoch would be a poor comparison.
    """
    others = [row for row in history if row.epoch != epoch]
    return min(others, key=lambda row: (abs(row.epoch - epoch), -row.epoch), default=None)
