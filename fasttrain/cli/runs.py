"""The command `runs`: a table of the runs in a folder, or the same as csv or JSON.

It answers at once, also while runs are training, so that it can be asked every few seconds.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from ..console.eta import duration
from ..errors import UsageError, shown
from ..run.folders import RUNS
from ..run.status import Status, statuses
from ..storage.encode import to_json

NAME, NOTE = 40, 90  # most letters of a name and a note in the table
COLUMNS = ("run", "state", "epoch", "accuracy", "left", "")


def runs(folder: Path | None, form: str = "table") -> str:
    """Return the runs in `folder` as text, in one of the formats of `predict`.

    Raises UsageError if there is no such folder.
    """
    where = folder or RUNS
    if folder is not None and not folder.is_dir():
        why = "is a file" if os.path.lexists(folder) else "does not exist"
        raise UsageError(f"runs ({folder}): {why}. Name a folder with runs.")
    found = statuses(where) if where.is_dir() else []
    if form == "csv":
        return _csv(found)
    if form == "jsonl":
        return "".join(f"{to_json(status._asdict())}\n" for status in found)
    if form == "json":
        return to_json([status._asdict() for status in found], indent=2) + "\n"
    return _table(found) if found else f"no runs in {where}\n"


def _csv(found: list[Status]) -> str:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(Status._fields)
    rows.writerows(found)
    return text.getvalue()


def _table(found: list[Status]) -> str:
    """Return a line for each run; the columns are as wide as their widest cell."""
    lines = [COLUMNS, *map(_cells, found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    aligned = ("<", "<", ">", ">", ">", "<")
    return "".join(
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, aligned, widths, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )


def _cells(status: Status) -> tuple[str, ...]:
    epoch = f"{status.epoch}/{'?' if status.epochs is None else status.epochs}"
    accuracy = f"{status.accuracy:.2%} {status.held_out}" if status.accuracy is not None else "-"
    left = "-" if status.seconds_left is None else duration(status.seconds_left)
    note = shown(status.note, NOTE)
    return shown(status.name, NAME), status.state, epoch, accuracy, left, note
