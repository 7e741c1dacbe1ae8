"""How far each run in a folder is, read without torch from the files that runs leave.

Any file may be missing, damaged or half written: a run that is looked at may be writing it.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import FasttrainError
from ..storage import atomic
from . import lock
from .folders import is_complete, read_epochs, read_recipe, read_summary, seeds

BEGUN = "environment.json"  # written right before the first step of a session
RECENT = 5  # epochs whose mean time is that of the next ones


class Status(NamedTuple):
    """A run's state and progress; None is unknown.

    `state` is running, done, failed, interrupted or damaged. `accuracy` is that of the best epoch,
    as a fraction of the images of the split `held_out`. `note` says who runs it, or what is wrong.
    """

    name: str
    path: str
    state: str
    epoch: int = 0
    epochs: int | None = None
    accuracy: float | None = None
    best_epoch: int | None = None
    held_out: str | None = None
    seconds_left: float | None = None
    note: str = ""


def runs_in(folder: Path) -> list[Path]:
    """Return the runs in `folder`, and those of each series in it, sorted by name.

    Damaged runs are among them. `folder` may be a run or a series itself. Raises OutputError if it
    cannot be listed.
    """
    if _resembles_a_run(folder):
        return [folder]
    with atomic.reported(folder):
        inside = [path for path in sorted(folder.iterdir(), key=_natural) if path.is_dir()]
    found = [[path] if _resembles_a_run(path) else seeds(path) for path in inside]
    return [run for runs in found for run in runs if _resembles_a_run(run)]


def _resembles_a_run(path: Path) -> bool:
    names = ("recipe.json", "metrics.jsonl", "checkpoints")
    return any(os.path.lexists(path / name) for name in names)


def _natural(path: Path) -> list[str | int]:
    """Return a key that sorts seed-9 before seed-10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part[:99]) if number % 2 else part for number, part in enumerate(parts)]


def statuses(folder: Path) -> list[Status]:
    """Return the status of every run in `folder`, the one started last first.

    Raises OutputError if the folder itself cannot be read.
    """
    found = runs_in(folder)
    found.sort(key=_started, reverse=True)
    return [_status(path, _name(path, folder)) for path in found]


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else path.resolve().name


def _started(path: Path) -> int:
    """Return when a run was last started or resumed, in nanoseconds; 0 if that is unknown."""
    try:
        return (path / "recipe.json").stat().st_mtime_ns
    except OSError:
        return 0


def _status(path: Path, name: str) -> Status:
    try:
        return _read(path, name)
    except (FasttrainError, OSError, ValueError, TypeError) as error:
        return Status(name, str(path), "damaged", note=_line(error))


def _read(path: Path, name: str) -> Status:
    recipe, summary = read_recipe(path), read_summary(path)
    rows, damage = read_epochs(path)
    held, text = lock.look(path)
    total = _number(recipe.get("epochs"))
    if held:
        state, note = "running", text
    elif not recipe:
        state, note = "damaged", "recipe.json is missing or damaged"
    elif is_complete(path):
        state, note = "done", damage or ""
    elif text.startswith(lock.FAILED):
        state, note = "failed", text.removeprefix(lock.FAILED)
    else:
        killed = f"{text.partition(' since ')[0]} is gone" if text else ""
        report = "trained, but without its report" if summary.get("finished") else ""
        state, note = "interrupted", "; ".join(filter(None, [killed, report, damage]))
    best, held_out = _best(rows, summary.get("best_epoch"))
    left = _seconds_left(path, rows, total) if held and total else None
    best_epoch = _number(best.get("epoch")) if best else None
    return Status(
        name,
        str(path),
        state,
        epoch=len(rows),
        epochs=None if total is None else int(total),
        accuracy=_accuracy(best) if best else None,
        best_epoch=None if best_epoch is None else int(best_epoch),
        held_out=held_out,
        seconds_left=left,
        note=note,
    )


def _best(
    rows: Sequence[dict[str, Any]], epoch: object
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the row of the best epoch, that which the summary names or the first with the highest
    accuracy, and the split that its accuracy is of."""
    rows = [row for row in rows if _accuracy(row) is not None]
    named = [row for row in rows if row.get("epoch") == epoch]
    best = max(named or rows, key=lambda row: _accuracy(row) or 0.0, default=None)
    return best, ("val" if "val_accuracy" in best else "test") if best else None


def _accuracy(row: dict[str, Any]) -> float | None:
    return _number(row.get("val_accuracy", row.get("test_accuracy")))


def _seconds_left(path: Path, rows: Sequence[dict[str, Any]], epochs: float) -> float | None:
    """Estimate the seconds to the end of training; None before an epoch has ended.

    A row has the seconds of training alone. Evaluations and saves take the rest of the time between
    the start of this session and the last row.
    """
    took = [_number(row.get("seconds")) or 0.0 for row in rows]
    if not any(took):
        return None
    try:
        row_at, began = ((path / file).stat().st_mtime for file in ("metrics.jsonl", BEGUN))
    except OSError:
        return None
    session, trained = row_at - began, 0.0
    for seconds in reversed(took):
        if trained + seconds > session:
            break
        trained += seconds
    longer = session / trained if trained else 1.0
    recent = took[-RECENT:]
    left = (epochs - len(rows)) * longer * sum(recent) / len(recent)
    return max(left - max(time.time() - row_at, 0.0), 0.0)


def _number(value: object) -> float | None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if fits and math.isfinite(value) else None  # type: ignore


def _line(error: Exception) -> str:
    why = getattr(error, "strerror", None) or str(error)
    return " ".join(why.split())
