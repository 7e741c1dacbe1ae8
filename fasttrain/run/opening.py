"""Opens the run directory that a training goes into, and the state that it goes on from.

What is refused here is refused before any data or device is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ..console.console import Display
from ..data import Data
from ..engine import monitors
from ..engine.loop import Epoch
from ..parallel.group import Group
from ..recipe.recipe import Recipe
from ..storage import checkpoint
from . import folders, lock, resume
from .bystander import NullRunDir
from .rundir import RunDir


@contextmanager
def run_dir(
    recipe: Recipe, out: Path | None, overwrite: bool, continued: Path | None, group: Group
) -> Iterator[RunDir | NullRunDir]:
    """The folder of the run to go on with, or of a new one; open until the block ends.

    Of a group only the first process has it, the others know where it is.
    """
    if not group.first:
        yield NullRunDir(Path(group.broadcast(None)))
        return
    if continued:
        opened = RunDir.resume(lock.folder_of(continued))
    else:
        path = out or lock.new_folder(lock.RUNS, recipe.recipe, datetime.now())
        opened = RunDir.create(path, overwrite=overwrite, made=[] if out else [path])
    with opened as folder:
        group.broadcast(str(folder.path))
        yield folder


def begin(
    folder: RunDir | NullRunDir,
    recipe: Recipe,
    environment: dict[str, Any],
    *,
    history: Sequence[Epoch],
    sweep: dict[str, Any],
    data: Data,
) -> None:
    """Make the folder this run's, once nothing can be refused any more: data, device and rate."""
    folder.begin(recipe.as_dict(), environment)
    if sweep:
        folder.write_json("lr_finder.json", sweep)
    folder.rewrite_epochs([monitors.line(row, data.chooses) for row in history])
    if data.listing is not None:
        folder.write_listing(data.listing)


def finished(
    continued: Path | None, recipe: Recipe, display: Display, group: Group, *, override: bool
) -> list[Epoch] | None:
    """The history of a run that has nothing left to do; changes nothing, not even its lock."""
    mine = _finished(continued, recipe, display, override=override) if group.first else None
    rows = group.broadcast(mine)
    return None if rows is None else [Epoch(*row) for row in rows]


def saved_state(
    folder: RunDir | NullRunDir,
    continued: Path | None,
    recipe: Recipe,
    display: Display,
    group: Group,
    *,
    override: bool,
) -> dict[str, Any] | None:
    """What the run goes on from, read by the group's first process; None at its beginning."""
    mine = None
    if isinstance(folder, RunDir) and continued is not None:
        mine = _saved_state(folder, continued, recipe, display, group, override=override)
    return group.broadcast(mine)


def _finished(
    continued: Path | None, recipe: Recipe, display: Display, *, override: bool
) -> list[list[float]] | None:
    if continued is None or not (continued.is_dir() and folders.is_complete(continued)):
        return None
    state, _ = checkpoint.Checkpoints(continued / "checkpoints").latest()
    if state is None:
        return None
    resume.check_form(state)
    resume.check_changes(Recipe.saved(state["recipe"]), recipe, override=override)
    if not resume.is_over(state, recipe):
        return None
    display.log(f"{continued} is finished: nothing to do.")
    return state["run"]["history"]


def _saved_state(
    folder: RunDir,
    continued: Path,
    recipe: Recipe,
    display: Display,
    group: Group,
    *,
    override: bool,
) -> dict[str, Any] | None:
    if continued.is_dir():
        state, notes = folder.checkpoints.latest()
        for note in notes:
            display.log(note)
    else:
        state = checkpoint.load(continued)
    if state is None:
        display.log(f"{folder.path} has no checkpoint yet: starting at its beginning")
        return None
    resume.check_form(state)
    resume.check_changes(Recipe.saved(state["recipe"]), recipe, override=override)
    done = state["run"]
    display.log(f"resuming {folder.path} after epoch {done['epoch']}, step {done['step']}")
    before = state.get("processes", 1)
    if before != group.world:
        display.log(
            f"  it had {before} process(es) and goes on with {group.world}, at the same global "
            "batch: the same training, but not bit for bit"
        )
    return state
