"""Tells a run to a tracker: wandb, mlflow or a person's own function.

The tracker runs in another process (see process.py), so that it can hang, crash, print and use a
core without touching the training. Here a bounded queue and two threads, which only move lines,
stand between the two: no call waits for the tracker, except for its import before the first step.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

from ..errors import EnvironmentProblem, UsageError
from ..storage.encode import to_json
from .launch import PACKAGES, check_installed, died, launched
from .tracked import LOG

IMPORT = 30.0  # seconds to wait for the tracker's import, which takes 1 to 5
FINISH, LEAVE = 5.0, 1.0  # seconds to wait for it at the end, and after an error or a signal
OFF = "none"
MOST = 1000  # messages that wait for a tracker that is slow; more are left out


class Tracker(AbstractContextManager["Tracker"]):
    """Tells the run in the folder `run` to the tracker `name`; `none` is told nothing.

    Entering starts the import of the tracker; `wait` waits for it. What the tracker says, and how
    it fails, is passed in one line each to `log` and `warn`. Raises EnvironmentProblem for a
    package that is not installed or cannot be imported, UsageError for a function that is not
    there; nothing else that a tracker does ends a run.
    """

    def __init__(
        self,
        name: str,
        run: Path,
        *,
        log: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._name, self._run, self._log, self._warn = name, run, log, warn
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: Queue[bytes | None] = Queue(MOST)
        self._answers: deque[dict[str, Any]] = deque()
        self._imported, self._done, self._ended = Event(), Event(), Event()
        self._started = self._complete = False
        self._lost = 0

    def __enter__(self) -> Tracker:
        if self._name != OFF:
            check_installed(self._name)
            self._process = launched(self._name)
            for task in (self._write, self._read):
                Thread(target=task, args=(self._process,), name="tracker", daemon=True).start()
            if self._name not in PACKAGES:
                self.wait()  # a function is there at once, and packages take seconds
        return self

    def wait(self) -> None:
        """Wait until the tracker is imported; raise what is wrong with it."""
        if self._process is None:
            return
        if not self._imported.wait(IMPORT):
            self._drop(f"could not be imported in {IMPORT:g} s")
        for answer in [each for each in self._answers if "refused" in each]:
            kind = UsageError if answer["code"] == UsageError.code else EnvironmentProblem
            raise kind(answer["refused"])

    def start(self, recipe: dict[str, Any], history: Sequence[dict[str, Any]]) -> None:
        """Begin or continue the tracker's run; `history` has the epochs before a resume."""
        self._started = self._process is not None
        run = self._run.absolute()
        # A series calls its runs seed-0, seed-1, ...
        title = f"{run.parent.name}/{run.name}" if run.name.startswith("seed-") else run.name
        about = {"run": str(run), "title": title, "recipe": recipe}
        self._put({"start": {**about, "history": list(history)}})

    def epoch(self, row: dict[str, Any]) -> None:
        """Tell a finished epoch, a row of metrics.jsonl."""
        self._put({"epoch": row})
        self._tell()

    def end(self, summary: dict[str, Any]) -> None:
        """Tell the end of the run; leaving the context waits for the tracker to have it."""
        self._put({"end": summary})

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        process = self._process
        if process is None:
            return
        self._close()
        if not self._started:
            process.kill()
            return
        if not self._done.wait(LEAVE if kind else FINISH) and not kind:
            self._warn(f"{self._what} has not finished after {FINISH:g} s and is left to itself")
        self._tell()
        if self._lost:
            self._warn(f"{self._what} was too slow: it was not told {self._lost} epochs")

    @property
    def _what(self) -> str:
        return f"the tracker ({self._name})"

    def _put(self, message: dict[str, Any]) -> None:
        if self._process is None or not self._started:
            return
        try:
            self._waiting.put_nowait(to_json(message).encode() + b"\n")
        except Full:
            self._lost += 1

    def _tell(self) -> None:
        """Print what the tracker has said since the last call, and once that it is gone."""
        ended = self._ended.is_set()
        while self._answers:
            answer = self._answers.popleft()
            if "note" in answer:
                self._log(f"tracker: {answer['note']}")
            elif "done" in answer:
                self._complete = True
            elif "failed" in answer:
                self._warn(f"{self._what} failed: {answer['failed']}. The training goes on")
        if self._process and ended and not self._complete:
            status = self._process.returncode
            self._drop(f"ended with status {status}; {self._run / LOG} may say why")

    def _drop(self, why: str) -> None:
        self._warn(f"{self._what} {why}. The training goes on without it")
        assert self._process is not None
        self._process.kill()
        self._close()
        self._process, self._started = None, False

    def _close(self) -> None:
        """Let the messages end: the process ends at the end of its standard input."""
        while True:
            with suppress(Full):
                self._waiting.put_nowait(None)
                return
            with suppress(Empty):
                self._waiting.get_nowait()
                self._lost += 1

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        """Pass the messages on to the process until the end of them, or of it."""
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        with suppress(OSError), process.stdin:
            while (message := self._waiting.get()) is not None:
                while message:
                    message = message[os.write(pipe, message) :]

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Collect the answers of the process until it ends."""
        assert process.stdout is not None
        with process.stdout as answers, suppress(OSError):
            for line in answers:
                self._answers.append(answer := json.loads(line))
                self._imported.set()
                if "done" in answer:
                    self._done.set()
        process.wait()
        if not self._imported.is_set():
            self._answers.append({"refused": died(self._name, process.returncode), "code": 3})
        self._ended.set()
        self._imported.set()
        self._done.set()  # there is nothing more to wait for
