"""Opens the run directory of a training and the checkpoint that it resumes.

Errors found here are raised before any data or device is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ..console.console import Display
from ..data import Data, origin
from ..data.preprocessing import Preprocessing
from ..engine import build, monitors
from ..engine.build import Built
from ..engine.state import Epoch, Run
from ..errors import Stopped
from ..machine import environment
from ..optim.warm_up import AnySchedule
from ..parallel.group import Group
from ..predict import card
from ..recipe.recipe import Recipe
from ..storage import checkpoint
from ..storage.encode import for_shell
from ..track.tracker import OFF, Tracker
from . import checks, folders, new_folders, resume, source
from .reconcile import reconcile
from .rundir import NullRunDir, RunDir
from .session import Session


@contextmanager
def open_run_dir(
    recipe: Recipe, out: Path | None, overwrite: bool, continued: Path | None, group: Group
) -> Iterator[RunDir | NullRunDir]:
    """Open the folder of the run to resume, or of a new run, until the block ends.

    Only the first process of a group opens it; the others only know its path.
    """
    if not group.first:
        yield NullRunDir(Path(group.broadcast(None)))
        return
    if continued:
        opened = RunDir.resume(checks.folder_of(continued))
    else:
        path = out or new_folders.new_folder(folders.RUNS, recipe.recipe, datetime.now())
        opened = RunDir.create(path, overwrite=overwrite, made=[] if out else [path])
    with opened as folder:
        group.broadcast(str(folder.path))
        yield folder


def tracking(recipe: Recipe, folder: RunDir | NullRunDir, display: Display) -> Tracker:
    """Return the tracker of a run; only the first process of a group has one."""
    name = recipe.track if isinstance(folder, RunDir) else OFF
    return Tracker(name, folder.path, log=display.log, warn=display.warn)


@contextmanager
def resume_advice(folder: RunDir | NullRunDir, series: Path | None) -> Iterator[None]:
    """Add to Stopped whether anything was saved, and how to resume the run or its `series`."""
    try:
        yield
    except Stopped as stop:
        if folder.replaces:
            advice = (
                f"{folder.path} is as it was: nothing of the new run to save yet. Start it again."
            )
        else:
            there = (folder.path / "checkpoints" / "last.pt").exists()
            saved = "saved" if there else "nothing to save yet"
            resumed = for_shell(series or folder.path)
            advice = f"{saved}. Resume with: python -m fasttrain --resume {resumed}"
        raise Stopped(f"{stop}: {advice}", signum=stop.code - 128) from None


def restore_position(
    session: Session, built: Built, state: dict[str, Any] | None
) -> tuple[Run, AnySchedule, Epoch | None]:
    """Return the Run, its schedule and the epoch in best.pt; a new Run without a `state`."""
    recipe, step = session.recipe, built.step
    steps = len(built.train)
    schedule = build.schedule(recipe, step, steps=recipe.epochs * steps)
    position, best = Run(), None
    if state:
        position = resume.restore(state, step, schedule, session.group)
        if recipe.lr not in ("auto", state["recipe"]["lr"]):
            step.lr = float(recipe.lr)
            schedule.set_peak(float(recipe.lr))
        schedule.seek(position.epoch * steps + position.step)
        session.ledger.load_state_dict(state["ledger"])
        best = reconcile(
            session.folder,
            state,
            session.display.log,
            monitor=recipe.monitor,
            every=recipe.checkpoint_every,
        )
    built.train.seek(position.epoch + 1, position.step)
    return position, schedule, best


def begin(
    session: Session,
    command: str,
    state: dict[str, Any] | None,
    position: Run,
    sweep: dict[str, Any],
    data: Data,
    built: Built,
) -> None:
    """Make the folder this run's, once data, device and learning rate are known to be valid."""
    folder, recipe = session.folder, session.recipe
    session.tracker.wait()
    if not resume.is_over(state, recipe):
        folder.reopen()
    about: dict[str, Any] = {"command": command, "processes": session.group.world}
    about["choices"] = {name: choice._asdict() for name, choice in built.choices.items()}
    about["measured"] = built.measured
    folder.begin(
        {**recipe.as_dict(), **source.digest_of(recipe)}, {**environment.describe(), **about}
    )
    scale = Preprocessing.saved(origin.about(data), recipe)
    folder.write_json("model.json", card.about(recipe, scale, built.step.model))
    if sweep:
        folder.write_json("lr_finder.json", sweep)
    rows = [monitors.line(row, data.chooses) for row in position.history]
    folder.rewrite_epochs(rows)
    if data.listing is not None:
        folder.write_listing(data.listing)
    session.tracker.start(recipe.as_dict(), rows)


def finished(
    continued: Path | None, recipe: Recipe, display: Display, group: Group, *, override: bool
) -> list[Epoch] | None:
    """Return the history of a finished run, else None; change nothing, not even its lock."""
    mine = _finished(continued, recipe, display, override=override) if group.first else None
    rows = group.broadcast(mine)
    return None if rows is None else [Epoch(*row) for row in rows]


def load_state(
    session: Session, continued: Path | None, *, override: bool
) -> dict[str, Any] | None:
    """Load the checkpoint to resume on rank 0 and broadcast it; None if the run starts anew."""
    mine = None
    if isinstance(session.folder, RunDir) and continued is not None:
        mine = _load_state(session, session.folder, continued, override=override)
    return session.group.broadcast(mine)


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


def _load_state(
    session: Session, folder: RunDir, continued: Path, *, override: bool
) -> dict[str, Any] | None:
    display, recipe, group = session.display, session.recipe, session.group
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
    source.check(state, recipe, override=override)
    if source.is_changed(state, recipe):
        display.log(f"the source of {recipe.model} has changed: the run goes on with the new one")
    done = state["run"]
    display.log(f"resuming {folder.path} after epoch {done['epoch']}, step {done['step']}")
    before = state.get("processes", 1)
    if before != group.world:
        display.log(
            f"  it had {before} process(es) and goes on with {group.world}, at the same global "
            "batch: the same training, but not bit for bit"
        )
    return state
