"""Saves checkpoints in a background thread while training continues.

The training loop waits only for a copy of the state, taken between two steps so that it is exact.
The thread does the rest, one save at a time: serialising, the digest, writing, removing old files.
A disk may be slower than an epoch of a GPU. Then an epoch is left out, but never the best or last.

Each save uses a new thread. A lasting thread that has used OpenMP keeps its own team of libgomp
threads. There are then more threads than cores, and libgomp stops all of them from spinning at the
end of a parallel loop. Training between saves ran at 900 images/s with such a thread waiting, at
954 without (sprint, 96-320-320 channels, 2 cores of a Xeon with AMX; means of epochs 2 to 4 of two
runs each, in turns).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

from ..engine import monitors
from ..engine.state import Epoch, Run
from ..storage import checkpoint
from ..storage.host_copy import HostCopies
from . import resume
from .ledger import Ledger
from .rundir import NullRunDir, RunDir

State = dict[str, Any]


class Saver(AbstractContextManager["Saver"]):
    """Saves after each epoch, every `every` seconds within one, and on request.

    Every `numbered` epochs the checkpoint stays, but of these only the newest `keep`.

    An error in the thread is raised by the next call, within a step or an epoch. Leaving the
    context saves the last epoch and waits for it. `best` is the epoch whose weights are in best.pt:
    the first with the highest score. `agree` makes all processes take the same decision to save.
    """

    def __init__(
        self,
        folder: RunDir | NullRunDir,
        capture: Callable[[Run], State],
        ledger: Ledger,
        *,
        every: float,
        numbered: int | None = None,
        keep: int | None = None,
        best: Epoch | None = None,
        agree: Callable[[bool], bool] = lambda due: due,
        monitor: str = "accuracy",
        held_out: str = "test",
    ) -> None:
        self._folder, self._capture, self._ledger, self.best = folder, capture, ledger, best
        self._every, self._began, self._agree = every, perf_counter(), agree
        self._monitor, self._held_out = monitor, held_out
        self._numbered, self._keep = numbered, keep
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._saved: list[int] | None = None
        self._copies = HostCopies()
        self._run: Run | None = None
        self._rows: list[dict[str, Any]] = []  # of epochs since the last save

    def check(self, run: Run) -> None:
        """Raise before training any error that saving such a state would raise."""
        checkpoint.check(self._state(run), self._folder.path / "checkpoints" / "last.pt")

    def step(self, run: Run) -> None:
        """The `on_step` hook: save when due, unless a save is still running."""
        if self._writing is not None and self._writing.done():
            self.wait()
        if self._agree(self._writing is None and perf_counter() - self._began > self._every):
            self.wait()
            self._start(run)

    def epoch(self, run: Run) -> None:
        """The `on_epoch` hook: save last.pt, then best.pt if the weights are the best so far.

        While a save is still running, an epoch that is neither the best nor numbered is left out,
        and its row waits for the next save. If the run is killed between last.pt and best.pt or the
        numbered one, `reconcile` makes those again from last.pt.
        """
        self._run, row = run, run.history[-1]
        self._rows.append(monitors.line(row, self._held_out))
        best = monitors.is_better(row, self.best, self._monitor)
        number = run.epoch if self._numbered and run.epoch % self._numbered == 0 else None
        if best or number or self._writing is None or self._writing.done():
            self.wait()
            self._start(run, best=best, number=number)

    def now(self, run: Run) -> None:
        """Save, unless this step is already saved, and wait until it is on disk."""
        self.wait()
        if self._saved != [run.epoch, run.step]:
            self._start(run)
            self.wait()

    def wait(self) -> None:
        """Wait for the current save; raise its error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with self._ledger.part("checkpoint"):
                writing.result()

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._thread is not None:
            with self._ledger.part("checkpoint"):
                self._thread.shutdown()
        if kind is None:  # otherwise report only the error that ended the block
            self.wait()
            if self._rows and self._run:
                self.now(self._run)

    def _start(self, run: Run, *, best: bool = False, number: int | None = None) -> None:
        with self._ledger.part("checkpoint"):
            copied = self._copies.begin(self._state(run))
        self._began, self._saved = perf_counter(), [run.epoch, run.step]
        self.best = run.history[-1] if best else self.best
        rows, self._rows = self._rows, []
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing = self._thread.submit(self._write, copied, rows, best, number)
        self._thread.shutdown(wait=False)  # the thread ends after this save

    def _state(self, run: Run) -> State:
        return {**self._capture(run), "ledger": self._ledger.state_dict()}

    def _write(
        self,
        copied: Callable[[], State],
        rows: list[dict[str, Any]],
        best: bool,
        number: int | None,
    ) -> None:
        state, checkpoints = copied(), self._folder.checkpoints
        checkpoints.save_last(state)
        if best:
            checkpoints.save_best(resume.best_of(state))
        if number:
            checkpoints.save_numbered(number, state, keep=self._keep)
        for row in rows:
            self._folder.append_epoch(row)
