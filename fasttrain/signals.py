"""Ctrl-C and SIGTERM end a run at a place where its checkpoint is exact.

Inside `polled()` a signal only leaves a mark that the loop's hooks look at between two steps;
everywhere else it raises at once. A second signal changes nothing, so that a nervous hand cannot
harm a save.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .errors import Stopped

SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


class Signals:
    """A context manager; outside the main thread it changes nothing, as Python demands."""

    def __init__(self) -> None:
        self.pending: int | None = None
        self._polled = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._receive) for s in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def polled(self) -> Iterator[None]:
        """Until the block ends, only `check` raises."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False

    def check(self, *_: object) -> None:
        """Raise Stopped if a signal has come; a hook."""
        if self.pending is not None:
            raise _stopped(self.pending)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = number
            if not self._polled:
                raise _stopped(number)


def _stopped(number: int) -> Stopped:
    return Stopped(f"stopped by {signal.Signals(number).name}", signum=number)
