"""Faults that make the n-th file operation fail, in each way that a disk or a crash can.

All writes to the disk go through the names patched here. After a crash, every later one crashes
too, so the disk holds what a process that ended at that moment would leave.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from itertools import count

from fasttrain.errors import OutputError
from fasttrain.storage import atomic

OPERATIONS = ("_open", "_write", "_fsync", "_truncate", "_replace", "_unlink", "_link")
ERRORS = ("ENOSPC", "EIO", "short", "short, then ENOSPC")  # after the last, operations work again
FOR_GOOD = "ENOSPC for good"
CRASHES = ("crash", "crash in a write")


class Crash(BaseException):
    """The end of the process, which no `except Exception` may catch."""


class Faults:
    """Breaks operation number `at` of an action; `fired` is true once it did."""

    def __init__(self, monkeypatch, at: int, kind: str) -> None:
        self.monkeypatch, self.at, self.kind = monkeypatch, at, kind
        self.calls: list[str] = []
        self.crashed = False

    @property
    def fired(self) -> bool:
        return len(self.calls) >= self.at

    def run(self, action: Callable[[], object]) -> str:
        """Run the action; return whether it was done, refused (with an OutputError) or crashed."""
        with self.monkeypatch.context() as patches:
            for name in OPERATIONS:
                patches.setattr(atomic, name, self._wrapped(name, getattr(atomic, name)))
            try:
                action()
            except OutputError:
                return "refused"
            except Crash:
                return "crashed"
            return "done"

    def _wrapped(self, name: str, real: Callable) -> Callable:
        def call(*args):
            if self.crashed:
                raise Crash
            self.calls.append(name)
            number = len(self.calls)
            if number == self.at or (number > self.at and self.kind == FOR_GOOD):
                return self._break(name, real, *args)
            return real(*args)

        return call

    def _break(self, name: str, real: Callable, *args):
        if name == "_write" and self.kind in ("short", "short, then ENOSPC", "crash in a write"):
            written = real(args[0], args[1][: max(1, len(args[1]) // 2)])
            if self.kind == "short, then ENOSPC":
                self.at, self.kind = self.at + 1, "ENOSPC"
            if self.kind != "crash in a write":
                return written
        if self.kind in CRASHES:
            self.crashed = True
            raise Crash
        if "short" in self.kind:
            return real(*args)
        number = getattr(errno, self.kind.split()[0])
        raise OSError(number, os.strerror(number))


def every_fault(monkeypatch, kind: str) -> Iterator[Faults]:
    """Yield faults for n = 1, 2, 3, ... until the action has fewer than n operations."""
    for at in count(1):
        faults = Faults(monkeypatch, at, kind)
        yield faults
        if not faults.fired:
            return
