"""A deadline on the progress of training: what is still at the same place when it passes, hangs.

Nothing but progress is judged, neither the stack nor the use of a processor: a slow disk or a long
step is a hang only if it takes longer than the deadline that the user may choose.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

BEAT = 1.0  # seconds between two checks
ADVICE = "Go on from the last checkpoint with --resume, or use a longer --hang-timeout (0 is none)."


class Progress:
    """The progress of one thread, which calls it; another thread calls `beat`, once a BEAT.

    Beats are counted and not seconds: while a process is stopped (Ctrl-Z), or its machine sleeps,
    there are none. `seconds` is the deadline, 0 for none; `where` says in words where training is.
    """

    def __init__(self, seconds: float, where: Callable[[], str]) -> None:
        self.seconds, self.where = seconds, where
        self._count = self._seen = self._beats = 0

    def __call__(self, *_: object) -> None:
        """Note progress; a hook of the training loop and of the range test."""
        self._count += 1

    def beat(self) -> bool:
        """Count a beat; return whether the deadline has passed without progress."""
        count = self._count
        self._beats = 0 if count != self._seen else self._beats + 1
        self._seen = count
        return 0 < self.seconds <= self._beats * BEAT

    def describe(self, what: str) -> str:
        """Return the first half of the error: the deadline that passed, then `what` was found."""
        return f"training (no progress for {self.seconds:g} s): {what}"


@contextmanager
def alone(progress: Progress) -> Iterator[Progress]:
    """For the block, end this process with exit code 9 when the deadline of `progress` passes."""
    over = Event()

    def run() -> None:
        while not over.wait(BEAT):
            if progress.beat():
                report(f"{progress.describe(f'it hangs at {progress.where()}')}. {ADVICE}")
                dump_stacks()
                os._exit(9)

    thread = Thread(target=run, name="hang", daemon=True)
    if progress.seconds:
        thread.start()
    try:
        yield progress
    finally:
        over.set()
        if progress.seconds:
            thread.join()


def report(message: str) -> None:
    """Print an error as the command line does, from a thread that is about to end the process."""
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")  # the progress bar hides the cursor
    print(f"fasttrain: error: {message}", file=sys.stderr, flush=True)


def dump_stacks(title: str = "") -> None:
    """Write the stacks of all threads to standard error, below `title`."""
    if title:
        print(f"{title}:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=2, all_threads=True)
