"""Ctrl-C, SIGTERM and SIGHUP end a run between two steps, where its checkpoint is exact.

Before a run they end the process at once. Inside `polled()` a signal only sets a flag, which the
loop's hooks check between two steps; in the rest of a run it raises at once. A second signal
changes nothing, so it cannot harm a save. A signal that is ignored when the process starts, as
nohup ignores SIGHUP, stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from ..errors import Stopped
from .launch import is_reporter

SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
UNWOUND_SECONDS = 5.0
UNSAVED = ": ended with what was saved before. Go on with --resume."
Handler = Callable[[int, FrameType | None], None]


class Signals:
    """A context manager; outside the main thread it does nothing, since Python sets no handlers
    there."""

    def __init__(self) -> None:
        self.pending: int | None = None
        self._polled = False
        self._before: dict[int, Any] = {}
        self._quiet = ExitStack()

    def __enter__(self) -> Signals:
        self._before = _handle_by(self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._quiet.close()

    @contextmanager
    def polled(self) -> Iterator[None]:
        """For the block, a signal raises nothing until `check` is called."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False

    def check(self, *_: object) -> None:
        """Raise Stopped if a signal has arrived; a hook."""
        if self.pending is not None:
            raise _stopped(self.pending)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = number
            if not self._polled:
                # torch warns, with a traceback, of an exception inside autograd while it compiles.
                self._quiet.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                # Python drops an exception in a weak reference's callback: then a timer ends it.
                forced = threading.Timer(UNWOUND_SECONDS, _end, (number, None, UNSAVED))
                forced.daemon = True
                forced.start()
                self._quiet.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
                sys.unraisablehook = lambda dropped: None  # it would print a traceback
                self._quiet.callback(forced.cancel)
                raise _stopped(number)


def end_at_once() -> None:
    """Make a signal outside a run end the process with one line and its exit status.

    Nothing is raised: there is nothing to save, and an import could swallow the exception.
    """
    _handle_by(_end)


@contextmanager
def ignored() -> Iterator[None]:
    """For the block, signals do nothing."""
    before = _handle_by(signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore() -> None:
    """Ignore signals from now on: all work is done, and the exit status must not change."""
    _handle_by(signal.SIG_IGN)


def _end(number: int, frame: FrameType | None, advice: str = "") -> None:
    if is_reporter():
        os.write(2, f"fasttrain: error: {_stopped(number)}{advice}\n".encode())
    os._exit(128 + number)


def _handle_by(handler: Handler | signal.Handlers) -> dict[int, Any]:
    """Install a handler for signals that are not ignored; return the earlier handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in found}


def _stopped(number: int) -> Stopped:
    return Stopped(f"stopped by {signal.Signals(number).name}", signum=number)
