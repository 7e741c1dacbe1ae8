"""Runs in a worker process: reads calls from its stdin and writes their results to its stdout.

workers.py starts it. It ends as soon as its stdin is closed, so it cannot outlive its parent.
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
from . import reading  # noqa: F401  imported at the start, before the first call needs it
from .pictures import quiet

READY = b"fasttrain\n"
Call = tuple[Callable[..., Any], tuple[Any, ...]]


def main() -> None:
    """Work until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    with os.fdopen(os.dup(1), "wb") as results, quiet():
        os.dup2(2, 1)  # a library that prints does not damage the results
        results.write(READY)
        results.flush()
        waiting: SimpleQueue[Call] = SimpleQueue()
        threading.Thread(target=_read, args=(waiting,), daemon=True).start()
        while True:
            answer(waiting.get(), results)


def answer(call: Call, results: BinaryIO) -> None:
    """Run a call; write (True, result) or (False, exception)."""
    function, arguments = call
    try:
        found = True, function(*arguments)
    except FasttrainError as error:
        found = False, error
    except Exception as error:  # a bug: its traceback says most
        found = False, RuntimeError("".join(format_exception(error)))
    try:
        pickle.dump(found, results, protocol=5)
        results.flush()
    except BrokenPipeError:
        os._exit(1)


def _read(waiting: SimpleQueue[Call]) -> None:
    """Pass calls on; end the process when its stdin is closed, even while it decodes."""
    with suppress(EOFError), open(0, "rb", closefd=False) as calls:
        while True:
            waiting.put(pickle.load(calls))
    os._exit(0)
