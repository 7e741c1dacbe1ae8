"""Standard output that may fail: it costs the lines that it cannot take, never the run.

`python -m fasttrain | head -1`, a terminal that was closed, a full disk under a log, an encoding
that lacks a path's letters.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class BrokenPipeSafe:
    """A text stream of which nothing is heard any more once its other end has gone.

    What its encoding has no letters for is written as escapes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self._stream.write(writable(text, self._stream))
        except OSError as error:
            self._end(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _end(self, error: OSError) -> None:
        _to_nowhere(self._stream)
        why = error.strerror or str(error)
        print_error(
            f"fasttrain: standard output ({why}): gone; all goes on, see the run directory."
        )


def print_error(line: str) -> None:
    """A line on stderr, if anybody is there."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(writable(line, sys.stderr) + "\n")
        sys.stderr.flush()


def writable(text: str, stream: TextIO) -> str:
    """`text` with escapes for what the stream's encoding cannot express: \\u043f for a letter."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def escape_letters() -> None:
    """Let the standard streams take any letter: argparse and others print to them, too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def open_missing() -> None:
    """Put nothing behind a standard stream that is closed: the next file opened would take its
    place, and get what libraries print."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                handle = os.open(os.devnull, os.O_RDWR)
                if handle != number:
                    os.dup2(handle, number)
                    os.close(handle)
                setattr(sys, name, os.fdopen(number, mode, closefd=False))


def detach() -> None:
    """Flush what was printed, so that Python finds nothing to complain of when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
