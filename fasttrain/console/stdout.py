"""Keeps a run alive when standard output fails; only the unprintable lines are lost.

It fails for `python -m fasttrain | head -1`, a closed terminal, a log on a full disk, or an
encoding without the letters of a path.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class BrokenPipeSafe:
    """A text stream that discards all output once its reader has gone.

    Characters that its encoding lacks are written as escapes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self._stream.write(writable(text, self._stream))
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _discard(self, error: OSError) -> None:
        _redirect_to_null(self._stream)
        why = error.strerror or str(error)
        print_error(f"fasttrain: standard output ({why}): closed. fasttrain continues without it.")


def print_error(line: str) -> None:
    """Print a line on stderr, if stderr is open."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(writable(line, sys.stderr) + "\n")
        sys.stderr.flush()


def writable(text: str, stream: TextIO) -> str:
    """`text` with escapes for characters that the stream's encoding lacks, such as \\u043f."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def escape_letters() -> None:
    """Let the standard streams accept any character: argparse and others print to them too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def open_missing() -> None:
    """Open closed standard streams on the null device.

    Otherwise the next file opened would get their number, and what libraries print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                handle = os.open(os.devnull, os.O_RDWR)
                if handle != number:
                    os.dup2(handle, number)
                    os.close(handle)
                setattr(sys, name, os.fdopen(number, mode, closefd=False))


def detach() -> None:
    """Flush standard output and stderr, so that Python prints no error about them at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _redirect_to_null(stream)


def _redirect_to_null(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
