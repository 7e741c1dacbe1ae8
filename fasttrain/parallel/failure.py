"""Why a group of processes ends, as every one of them reads it from the group's store."""

from __future__ import annotations

import json
from typing import NamedTuple

from ..errors import FasttrainError, Stopped
from .hang import ADVICE

ALL_END = "All processes end; go on from the last checkpoint with --resume."


class Failure(NamedTuple):
    """Why a group ends."""

    rank: int  # of the process that found it
    code: int  # every process's exit code
    what: str
    own: bool = False  # an error raised in that process, which reports it itself
    hang: bool = False  # every process dumps its stacks

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Failure:
        """Return the Failure that describes an `error` of process `rank`."""
        if isinstance(error, (FasttrainError, Stopped)):
            return cls(rank, error.code, str(error), own=True)
        first = (str(error).splitlines() or [""])[0]
        return cls(rank, 9, f"rank {rank} ended with {type(error).__name__}: {first}")

    @classmethod
    def parsed(cls, text: str | bytes) -> Failure:
        """Parse a Failure from JSON."""
        return cls(*json.loads(text))

    @property
    def message(self) -> str:
        """Return what happened and what to do."""
        return self.what if self.own else f"{self.what}. {ADVICE if self.hang else ALL_END}"
