"""Saves checkpoints in a background thread while training continues.

The training loop waits only for a copy of the state, taken between two steps so that it is exact.
The thread does the rest, one save at a time: serialising, the digest, writing, removing old files.

Each save uses a new thread. A lasting thread that has used OpenMP keeps its own team of libgomp
threads. There are then more threads than cores, and libgomp stops all of them from spinning at the
end of a parallel loop. Training between saves ran at 900 images/s with such a thread waiting, at
954 without (sprint, 96-320-320 channels, 2 cores of a Xeon with AMX; means of epochs 2 to 4 of two
runs each, in turns).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter
from typing import Any

from ..engine import monitors
from ..engine.state import Epoch, Run
from ..errors import CheckpointError
from ..storage import atomic, checkpoint
from ..storage.contents import on_host
from . import resume
from .ledger import Ledger
from .rundir import NullRunDir, RunDir

State = dict[str, Any]


class Saver(AbstractContextManager["Saver"]):
    """Saves after each epoch, every `every` seconds within one, and on request.

    An error in the thread is raised by the next call, within a step or an epoch. Leaving the
    context waits for the current save. `best` is the epoch whose weights are in best.pt: the first
    with the highest score. `agree` makes all processes take the same decision to save.
    """

    def __init__(
        self,
        folder: RunDir | NullRunDir,
        capture: Callable[[Run], State],
        ledger: Ledger,
        *,
        every: float,
        best: Epoch | None = None,
        agree: Callable[[bool], bool] = lambda due: due,
        monitor: str = "accuracy",
        held_out: str = "test",
    ) -> None:
        self._folder, self._capture, self._ledger, self.best = folder, capture, ledger, best
        self._every, self._began, self._agree = every, perf_counter(), agree
        self._monitor, self._held_out = monitor, held_out
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._saved: list[int] | None = None

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

        If the run is killed between the two, `reconcile` makes best.pt again from last.pt."""
        self.wait()
        self._start(run, row=monitors.line(run.history[-1], self._held_out))

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

    def _start(self, run: Run, *, row: dict[str, Any] | None = None) -> None:
        with self._ledger.part("checkpoint"):
            state = on_host(self._state(run))
        self._began, self._saved = perf_counter(), [run.epoch, run.step]
        best = row is not None and _is_better(run.history[-1], self.best, self._monitor)
        self.best = run.history[-1] if best else self.best
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing = self._thread.submit(self._write, state, row, best)
        self._thread.shutdown(wait=False)  # the thread ends after this save

    def _state(self, run: Run) -> State:
        return {**self._capture(run), "ledger": self._ledger.state_dict()}

    def _write(self, state: State, row: dict[str, Any] | None, best: bool) -> None:
        self._folder.checkpoints.save_last(state)
        if best:
            self._folder.checkpoints.save_best(resume.best_of(state))
        if row is not None:
            self._folder.append_epoch(row)


def reconcile(
    folder: RunDir | NullRunDir,
    state: State,
    log: Callable[[str], None],
    *,
    monitor: str = "accuracy",
) -> Epoch | None:
    """Make the checkpoints in `folder` consistent with `state` before the run continues from it.

    Checkpoints that are newer, or of another branch, are renamed to NAME.abandoned. If the weights
    of the best epoch are gone, those of `state` take their place if they are the best left, and a
    message says so. Returns the epoch whose weights are in best.pt, if there is one.
    """
    if not isinstance(folder, RunDir):
        return None
    if not folder.checkpoints.last_is_sound:  # otherwise `state` was read from last.pt
        _lead_to(state, folder, log)
    path, rows = folder.checkpoints.folder / "best.pt", resume.history_of(state)
    best = _row_of(path, rows)
    if best is None and os.path.lexists(path):
        _set_aside(path, log)
    if state["run"]["step"] == 0 and rows and _is_better(rows[-1], best, monitor):
        folder.checkpoints.save_best(resume.best_of(state))
        best = rows[-1]
    first = max(rows, key=lambda row: monitors.score(row, monitor), default=None)
    if first and _is_better(first, best, monitor):
        named = f"epoch {best.epoch} until a better one" if best else "none until the next epoch"
        log(f"  the weights of the best epoch, {first.epoch}, are gone: best.pt holds {named}")
    return best


def _lead_to(state: State, folder: RunDir, log: Callable[[str], None]) -> None:
    """Make `state` the last checkpoint, and keep the previous one only if it leads to it."""
    last, previous = (folder.checkpoints.folder / f"{name}.pt" for name in ("last", "previous"))
    if not _leads_to(state, last):
        aside = last.with_name(f"{last.name}.abandoned")
        checkpoint.save(last, state, keep=aside)  # last.pt exists at every moment
        log(f"  {last.name} holds later epochs, which the run leaves: renamed to {aside.name}")
    if not _leads_to(state, previous):
        _set_aside(previous, log)


def _leads_to(state: State, path: Path) -> bool:
    """Return whether the checkpoint at `path` leads to `state`, is missing or is damaged."""
    try:
        found = checkpoint.load(path)
        rows, ours = (resume.history_of(each) for each in (found, state))
        return found["progress"] <= state["progress"] and rows == ours[: len(rows)]
    except (CheckpointError, KeyError, TypeError):
        return True


def _row_of(path: Path, rows: list[Epoch]) -> Epoch | None:
    """Return the epoch in `rows` whose weights best.pt holds; None if it is of another branch."""
    try:
        best = checkpoint.load(path)
        epoch, score = best["progress"][0], best["test_accuracy"]
    except (CheckpointError, KeyError, TypeError, IndexError):
        return None
    return next((row for row in rows if (row.epoch, row.test_accuracy) == (epoch, score)), None)


def _set_aside(path: Path, log: Callable[[str], None]) -> None:
    aside = path.with_name(f"{path.name}.abandoned")
    with atomic.reported(path):
        path.replace(aside)
    log(f"  {path.name} holds later epochs, which the run leaves: renamed to {aside.name}")


def _is_better(row: Epoch, best: Epoch | None, monitor: str) -> bool:
    """Return whether `row` beats `best`; at equal scores the earlier epoch stays."""
    return best is None or monitors.score(row, monitor) > monitors.score(best, monitor)
