"""Makes the checkpoints of a run agree with the one it goes on from.

A run may go on from an earlier checkpoint than its last. What it leaves is renamed, never lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine import monitors
from ..engine.state import Epoch
from ..errors import CheckpointError
from ..storage import atomic, checkpoint, numbered
from . import resume
from .rundir import NullRunDir, RunDir

State = dict[str, Any]


def reconcile(
    folder: RunDir | NullRunDir,
    state: State,
    log: Callable[[str], None],
    *,
    monitor: str = "accuracy",
    every: int | None = None,
) -> Epoch | None:
    """Make the checkpoints in `folder` consistent with `state` before the run continues from it.

    Checkpoints that are newer, or of another branch, are renamed to NAME.abandoned. If the weights
    of the best epoch are gone, those of `state` take their place if they are the best left, and a
    message says so. A numbered one that is due, every `every` epochs, and missing is made from
    `state`. Returns the epoch whose weights are in best.pt, if there is one.
    """
    if not isinstance(folder, RunDir):
        return None
    if not folder.checkpoints.last_is_sound:  # otherwise `state` was read from last.pt
        _lead_to(state, folder, log)
    _number(state, folder, log, every=every)
    path, rows = folder.checkpoints.folder / "best.pt", resume.history_of(state)
    best = _row_of(path, rows)
    if best is None and os.path.lexists(path):
        _set_aside(path, log)
    if state["run"]["step"] == 0 and rows and monitors.is_better(rows[-1], best, monitor):
        folder.checkpoints.save_best(resume.best_of(state))
        best = rows[-1]
    first = max(rows, key=lambda row: monitors.score(row, monitor), default=None)
    if first and monitors.is_better(first, best, monitor):
        named = f"epoch {best.epoch} until a better one" if best else "none until the next epoch"
        log(f"  the weights of the best epoch, {first.epoch}, are gone: best.pt holds {named}")
    return best


def _lead_to(state: State, folder: RunDir, log: Callable[[str], None]) -> None:
    """Make `state` the last checkpoint, and keep the previous one only if it leads to it."""
    last, previous = (folder.checkpoints.folder / f"{name}.pt" for name in ("last", "previous"))
    if not _leads_to(state, last):
        aside = last.with_name(f"{last.name}.abandoned")
        checkpoint.save(last, state, keep=aside)  # last.pt exists at every moment
        log(f"  {last.name} holds later epochs, which the run leaves: renamed to {aside.name}")
    if not _leads_to(state, previous):
        _set_aside(previous, log)


def _number(state: State, folder: RunDir, log: Callable[[str], None], *, every: int | None) -> None:
    """Keep of the numbered checkpoints those that lead to `state`; make its own if it is due."""
    epoch, step = state["progress"]
    kept = numbered.found(folder.checkpoints.folder)
    for number, path in kept.items():
        if number > epoch:
            _set_aside(path, log)
    if every and epoch and not step and epoch % every == 0 and epoch not in kept:
        folder.checkpoints.save_numbered(epoch, state)


def _leads_to(state: State, path: Path) -> bool:
    """Return whether the checkpoint at `path` leads to `state`, is missing or is damaged."""
    try:
        found = checkpoint.load(path)
        rows, ours = (resume.history_of(each) for each in (found, state))
        return found["progress"] <= state["progress"] and rows == ours[: len(rows)]
    except (CheckpointError, KeyError, TypeError):
        return True


def _row_of(path: Path, rows: list[Epoch]) -> Epoch | None:
    """Return the epoch in `rows` whose weights best.pt holds; None if it is of another branch."""
    try:
        best = checkpoint.load(path)
        epoch, score = best["progress"][0], best["test_accuracy"]
    except (CheckpointError, KeyError, TypeError, IndexError):
        return None
    return next((row for row in rows if (row.epoch, row.test_accuracy) == (epoch, score)), None)


def _set_aside(path: Path, log: Callable[[str], None]) -> None:
    aside = path.with_name(f"{path.name}.abandoned")
    with atomic.reported(path):
        path.replace(aside)
    log(f"  {path.name} holds later epochs, which the run leaves: renamed to {aside.name}")
