"""The result of a stage, on disk from its first row on, and what the stage is asked to do.

A stage may end at any instant, by a crash of CUDA or at the end of its time: what it has measured
by then is kept.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from fasttrain.storage import atomic

RUNNING = "running"


class LeftOut(Exception):
    """A stage that cannot be measured here, for a reason that is no failure."""


class Record:
    """A JSON file with a stage's rows, notes and numbers, rewritten atomically at each addition."""

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path = path
        self.found = {**found, "state": RUNNING, "why": None, "rows": [], "notes": []}
        self._write()

    def put(self, name: str, value: Any) -> None:
        """Keep a value of its own beside the rows."""
        self.found[name] = value
        self._write()

    def row(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.found["rows"].append(row)
        self._write()

    def note(self, line: str) -> None:
        """Add a line about what is missing or peculiar."""
        print(line, flush=True)
        self.found["notes"].append(line)
        self._write()

    def end(self, state: str, why: str | None = None) -> None:
        """Say how the stage ended."""
        self.found |= {"state": state, "why": why}
        self._write()

    def _write(self) -> None:
        atomic.write_json(self.path, self.found)


class Job(NamedTuple):
    """What a stage is given: where it writes, when it must end, and the images.

    `ends` is of time.monotonic(), which all processes of a machine share. `scratch` is a folder for
    what need not be kept. A `toy` is of a size that a CPU rehearses in seconds.
    """

    record: Record
    out: Path
    scratch: Path
    ends: float
    toy: bool
    data_dir: Path | None

    def left(self) -> float:
        """The seconds until the stage must have ended."""
        return self.ends - time.monotonic()


def said(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or ["no more is known"]
    return f"{type(error).__name__}: {lines[0][:300]}"
