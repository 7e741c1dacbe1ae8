"""Writes a command's result to standard output, so that a cut-off one never passes for a whole.

Apart from `predict` because it needs no torch.
"""

from __future__ import annotations

import sys
from typing import TextIO

from ..console.stdout import writable
from ..errors import OutputError

READER_GONE = 141  # as a shell has it for a program that SIGPIPE ended


def write(text: str, stdout: TextIO) -> None:
    """Write and flush: a reader sees rows as they come, and one that has gone is noticed.

    Raises OutputError, and BrokenPipeError if the reader has gone.
    """
    try:
        stdout.write(writable(text, stdout))
        stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(f"standard output: {why}. Make room, or choose an --out.") from None


def print_all(text: str) -> int:
    """Print a result; return the exit status, READER_GONE if the reader has enough, as `| head`."""
    try:
        write(text, sys.stdout)
    except BrokenPipeError:
        return READER_GONE
    return 0
