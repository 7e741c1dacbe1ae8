"""Checkpoints of a run that goes on meanwhile: the loop pays for a copy, a thread for the rest.

The copy is taken between two steps, so it is exact; serialising, the digest, the disk and what is
removed for it come in the thread, one save at a time. Each save has a thread of its own: one that
stays, and has once computed with OpenMP, keeps a team of libgomp's threads; those are then more
than the cores, and libgomp lets none of them spin at the end of a parallel loop any more. Training
between saves ran at 900 images/s with such a thread waiting, at 954 without (sprint, 96-320-320
channels, 2 cores of a Xeon with AMX; means of epochs 2 to 4 of two runs each, in turns).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

from torch import Tensor

from . import checkpoint, resume
from .bystander import Bystander
from .ledger import Ledger
from .loop import Run
from .rundir import RunDir

State = dict[str, Any]


class Saver(AbstractContextManager["Saver"]):
    """Saves after each epoch, every `every` seconds within one, and when told to.

    What went wrong in the thread is raised by the next of these calls, within a step or an epoch;
    leaving the context waits for the save under way. Of several processes `agree` makes their
    clocks one.
    """

    def __init__(
        self,
        folder: RunDir | Bystander,
        capture: Callable[[Run], State],
        ledger: Ledger,
        *,
        every: float,
        agree: Callable[[bool], bool] = lambda due: due,
    ) -> None:
        self._folder, self._capture, self._ledger = folder, capture, ledger
        self._every, self._began, self._agree = every, perf_counter(), agree
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._saved: list[int] | None = None

    def check(self, run: Run) -> None:
        """Raise now, before hours of training, what a save of such a state would raise."""
        checkpoint.check(self._state(run), self._folder.path / "checkpoints" / "last.pt")

    def step(self, run: Run) -> None:
        """The `on_step` hook: save by the clock, unless a save is still under way."""
        if self._writing is not None and self._writing.done():
            self.wait()
        if self._agree(self._writing is None and perf_counter() - self._began > self._every):
            self.wait()
            self._start(run)

    def epoch(self, run: Run) -> None:
        """The `on_epoch` hook: save, first what is best, then what can be resumed."""
        self.wait()
        self._start(run, row=run.history[-1]._asdict())

    def now(self, run: Run) -> None:
        """Save, unless this very step has been saved, and wait until it is on the disk."""
        self.wait()
        if self._saved != [run.epoch, run.step]:
            self._start(run)
            self.wait()

    def wait(self) -> None:
        """Wait for the save under way; raise what it raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with self._ledger.part("checkpoint"):
                writing.result()

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._thread is not None:
            with self._ledger.part("checkpoint"):
                self._thread.shutdown()
        if kind is None:  # else what ended the block is said, and not a second thing
            self.wait()

    def _start(self, run: Run, *, row: dict[str, Any] | None = None) -> None:
        with self._ledger.part("checkpoint"):
            state = on_host(self._state(run))
        self._began, self._saved = perf_counter(), [run.epoch, run.step]
        best = row is not None and _is_best(run)
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing = self._thread.submit(self._write, state, row, best)
        self._thread.shutdown(wait=False)  # it ends with this save

    def _state(self, run: Run) -> State:
        return {**self._capture(run), "ledger": self._ledger.state_dict()}

    def _write(self, state: State, row: dict[str, Any] | None, best: bool) -> None:
        if best:
            self._folder.checkpoints.save_best(resume.best_of(state))
        self._folder.checkpoints.save_last(state)
        if row is not None:
            self._folder.append_epoch(row)


def on_host(tree: Any) -> Any:
    """A copy of nested containers whose tensors are on the CPU and share no memory with `tree`."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        copied = copy.copy(tree)  # a state_dict carries its versions as an attribute
        copied.update({key: on_host(value) for key, value in tree.items()})
        return copied
    if isinstance(tree, (list, tuple)):
        return type(tree)(on_host(value) for value in tree)
    return tree


def _is_best(run: Run) -> bool:
    return run.history[-1].test_accuracy >= max(row.test_accuracy for row in run.history)
