"""A worker process: reads calls from its stdin, and writes their results to its stdout.

Started by workers.py. It ends as soon as its stdin does, so it cannot outlive who started it.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from traceback import format_exception
from typing import Any, BinaryIO

from ..errors import FasttrainError
from . import reading  # noqa: F401  what is called, imported before it is waited for
from .pictures import quiet

READY = b"fasttrain\n"
Call = tuple[Callable[..., Any], tuple[Any, ...]]


def main() -> None:
    """Work until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes
    with os.fdopen(os.dup(1), "wb") as results, quiet():
        os.dup2(2, 1)  # what prints does not spoil the results
        results.write(READY)
        results.flush()
        waiting: SimpleQueue[Call] = SimpleQueue()
        threading.Thread(target=_read, args=(waiting,), daemon=True).start()
        while True:
            answer(waiting.get(), results)


def answer(call: Call, results: BinaryIO) -> None:
    """Write (True, the result) or (False, the exception)."""
    function, arguments = call
    try:
        found = True, function(*arguments)
    except FasttrainError as error:
        found = False, error
    except Exception as error:  # a bug: its traceback is all that can be said
        found = False, RuntimeError("".join(format_exception(error)))
    try:
        pickle.dump(found, results, protocol=5)
        results.flush()
    except BrokenPipeError:
        os._exit(1)


def _read(waiting: SimpleQueue[Call]) -> None:
    """Pass on what comes; end the process with its stdin, even if it is decoding."""
    with suppress(EOFError), open(0, "rb", closefd=False) as calls:
        while True:
            waiting.put(pickle.load(calls))
    os._exit(0)
