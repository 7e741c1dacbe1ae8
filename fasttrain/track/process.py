"""Runs in the tracker's process: reads messages from its stdin and passes them to the tracker.

tracker.py starts it. A call that hangs ends the process, and so does the end of its standard input:
it outlives a run by the time of one call at most, even if the run is killed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from ..errors import UsageError
from ..recipe import own_function
from ..storage import atomic
from .tracked import KEPT, LOG, About, Tracked

ADAPTERS = {"wandb": "with_wandb", "mlflow": "with_mlflow"}


class Teller:
    """Passes a run's messages to its tracker, and remembers in tracker.json what it was told."""

    def __init__(self, adapter: ModuleType, name: str, answers: BinaryIO) -> None:
        self._adapter, self._name, self._answers = adapter, name, answers
        self._tracked: Tracked | None = None
        self._run: Path | None = None
        self._sent: dict[str, float | None] = {}

    def start(self, about: dict[str, Any]) -> None:
        """Open the tracker's run, the one in tracker.json if it can be, and catch up with it."""
        self._run = run = Path(about["run"])
        _redirect(run / LOG)
        before = _kept(run / KEPT)
        mine = before if before.get("track") == self._name else {}
        kept = mine.get("kept", {})
        asked = About(self._name, run, about["title"], about["recipe"], kept)
        self._tracked = tracked = self._adapter.start(asked)
        self._sent = mine.get("sent", {}) if tracked.kept == kept else {}
        self._remember()
        if tracked.note:
            answer(self._answers, note=tracked.note)
        for row in about["history"]:
            self.epoch(row)

    def epoch(self, row: dict[str, Any]) -> None:
        """Tell an epoch, unless it was told: an epoch that is trained again has the same loss."""
        number, loss = str(row["epoch"]), row["train_loss"]
        if self._tracked is None or (number in self._sent and self._sent[number] == loss):
            return
        self._tracked.epoch(row)
        self._sent[number] = loss
        self._remember()

    def end(self, summary: dict[str, Any]) -> None:
        """Tell the end of the run."""
        if self._tracked is not None:
            self._tracked.end(summary)
            self._tracked = None

    def stop(self) -> None:
        """Tell that the run was interrupted, if it did not end."""
        if self._tracked is not None:
            self._tracked.stop()

    def tidy(self) -> None:
        """Remove the log if nothing was printed."""
        log = self._run and self._run / LOG
        if log and log.exists() and not log.stat().st_size:
            _redirect(Path(os.devnull))  # Windows removes no open file
            log.unlink()

    def _remember(self) -> None:
        assert self._tracked is not None
        assert self._run is not None
        found = {"track": self._name, "kept": self._tracked.kept, "sent": self._sent}
        atomic.write_json(self._run / KEPT, found)


def main() -> None:
    """Import the tracker that the first argument names and serve it until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name, limit = sys.argv[1], float(sys.argv[2])
    with os.fdopen(os.dup(1), "wb", buffering=0) as answers, os.fdopen(os.dup(0), "rb") as calls:
        nothing = os.open(os.devnull, os.O_RDWR)
        for place in (0, 1, 2):  # what a tracker starts inherits no pipe to the run
            os.dup2(nothing, place)
        try:
            with within(limit):
                adapter = imported(name)
        except UsageError as error:
            answer(answers, refused=str(error), code=error.code)
            return
        except Exception as error:
            why = f"--track ({name}): importing it raised {own_function.said(error)}"
            answer(answers, refused=f"{why}. Install it anew, or leave --track out.", code=3)
            return
        answer(answers, ready=True)
        serve(Teller(adapter, name, answers), calls, answers, limit)
    faulthandler.dump_traceback_later(limit, exit=True, file=2)  # what it runs at its exit may hang


def imported(name: str) -> ModuleType:
    """Return the module of this room that speaks to the tracker `name`, which it has imported."""
    if name not in ADAPTERS:
        own_function.function("--track", name, returns="takes an event and its values")
    return import_module(f".{ADAPTERS.get(name, 'with_function')}", __package__)


def serve(teller: Teller, calls: BinaryIO, answers: BinaryIO, limit: float) -> None:
    """Pass on messages until there are no more; the first call that fails is reported."""
    failures = 0
    told = (partial(getattr(teller, verb), values) for verb, values in messages(calls))
    tasks: Iterator[Callable[[], object]] = chain(told, [teller.stop, teller.tidy])
    for task in tasks:
        try:
            with within(limit):
                task()
        except (Exception, SystemExit) as error:
            failures += 1
            if failures == 1:
                answer(answers, failed=own_function.said(error).rstrip("."))
    answer(answers, done=True)


def messages(calls: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """The verbs and values that the run writes, until it ends."""
    for line in calls:
        if line.endswith(b"\n"):  # of a killed run the last may be torn
            yield from json.loads(line).items()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End this process after `seconds`, whatever it does then; its stacks go to tracker.log."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def answer(answers: BinaryIO, **said: object) -> None:
    """Write a line to the run; it may be gone."""
    with suppress(OSError):
        answers.write(json.dumps(said).encode() + b"\n")


def _redirect(log: Path) -> None:
    """Let all output of this process, and of those that it starts, go to a file of the run."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for place in (1, 2):
        os.dup2(handle, place)
    os.close(handle)


def _kept(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(
        isinstance(found.get(name), dict) for name in ("kept", "sent")
    )
    return found if whole else {}
