"""The errors that a user can cause, as exceptions that carry their exit codes.

The command line prints each as one line on stderr. Only a bug of fasttrain shows a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(value: object, most: int = 40) -> str:
    """Return a value as text for one line: control characters escaped, at most `most` long."""
    text = str(value) if str(value).isprintable() else repr(value)
    text = text if text.isprintable() else " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(word: object, known: Iterable[str]) -> str:
    """Return `Did you mean NAME?` for the name in `known` nearest to `word`, or `See --help.`"""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word)[:100].lower(), names, n=1)
    return f"Did you mean {names[near[0]]}?" if near else "See --help."


class FasttrainError(Exception):
    """One line: what went wrong, why, and what to do. `code` is the exit status."""

    code = 1


class ExportError(FasttrainError):
    """An exported file does not answer as the trained network does."""


class UsageError(FasttrainError):
    """The command line or a Recipe asks for something impossible."""

    code = 2


class EnvironmentProblem(FasttrainError):
    """CUDA, DALI, apex, triton or a compiler is missing or unusable."""

    code = 3


class DataError(FasttrainError):
    """The data set is missing, damaged or cannot be fetched."""

    code = 4


class CheckpointError(FasttrainError):
    """A checkpoint or a run is missing, damaged, or not from fasttrain."""

    code = 5


class OutputError(FasttrainError):
    """The run directory cannot be used, or the disk is full."""

    code = 6


class Diverged(FasttrainError):
    """The loss or the weights are no longer finite."""

    code = 7


class OutOfMemory(FasttrainError):
    """The batch does not fit into the device's memory."""

    code = 8


class DistributedError(FasttrainError):
    """A process of the group died, hangs or could not be reached."""

    code = 9


class Stopped(BaseException):
    """A signal ended the run after its checkpoint was saved; `signum` gives the exit status.

    It is no Exception, like KeyboardInterrupt, so that `except Exception` in other code lets it by.
    """

    def __init__(self, message: str, *, signum: int) -> None:
        super().__init__(message)
        self.code = 128 + signum


class ReportedElsewhere(FasttrainError):
    """Another process of the group failed and reported why; this one exits with its code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process of the group ended with exit code {code}")
        self.code = code
