"""Every mistake a person can make, as an exception that knows its exit code.

The command line turns any of these into one line on stderr; a traceback is kept for our own bugs.
"""

from __future__ import annotations


def shown(value: object, most: int = 40) -> str:
    """A value as a line can hold it: what a terminal would obey escaped, what is long cut."""
    text = str(value) if str(value).isprintable() else repr(value)
    text = text if text.isprintable() else " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


class FasttrainError(Exception):
    """What went wrong, why, and what to do, in one line; `code` is the exit status."""

    code = 1


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
    """A checkpoint or a run is missing, foreign or damaged."""

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

    Like KeyboardInterrupt no Exception: what is imported or called must not take it for an error.
    """

    def __init__(self, message: str, *, signum: int) -> None:
        super().__init__(message)
        self.code = 128 + signum


class ReportedElsewhere(FasttrainError):
    """Another process of the group failed and has said why; this one ends with the same code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process of the group ended with exit code {code}")
        self.code = code
