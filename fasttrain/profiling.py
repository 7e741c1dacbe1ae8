"""`--profile`: records a few steps of a run, and afterwards says where their time went.

A trace answers anything, to whoever opens it; most of what is asked fits on ten lines.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from . import files
from .build import Built
from .display import Display
from .loop import Run
from .rundir import RunDir
from .texts import encode
from .timeline import describe, read, summarise
from .trace import trace, window


class Profiling:
    """The trace of one run, from the hook that records it to its summary."""

    def __init__(self, folder: RunDir, display: Display) -> None:
        self.folder, self.display = folder, display
        self.epoch = 0
        self.written: list[Path] = []

    def record(self, built: Built, run: Run) -> AbstractContextManager[Callable[[object], None]]:
        """Open the `on_step` hook that records the end of the epoch in which `run` stands."""
        self.epoch = run.epoch + 1
        skip, active = window(len(built.train) - run.step, len(built.test))
        return trace(self.folder.tensorboard, skip=skip, active=active, written=self.written.append)

    def tell(self, built: Built, run: Run) -> None:
        """Say where the time of the recorded steps went; keep it as profile.txt, profile.json."""
        found = summarise(read(self.written[-1])) if self.written else None
        if found is None:
            self.display.say("profile: the run ended before a whole step was recorded")
            return
        last = run.history[-1]
        untraced = last.seconds / len(built.train) if last.epoch > self.epoch else None
        text = describe(found, untraced=untraced)
        numbers = {"trace": self.written[-1].name, "untraced_step_seconds": untraced}
        self.folder.write_json("profile.json", {**numbers, **found.as_dict()})
        files.write_atomically(self.folder.path / "profile.txt", encode(text + "\n"))
        self.display.say(text)
        self.display.say(f"  trace: {self.written[-1]}")
