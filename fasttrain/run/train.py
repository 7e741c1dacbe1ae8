"""Runs one training from its folder to its report.

All steps of a run are called here in order, so that its course can be read in one place. Each
function's own module has the details. `engine.fit` is the training loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ..console.console import Display
from ..data import Data, origin
from ..engine.build import Built, splits
from ..engine.choices import recorded
from ..engine.loop import fit
from ..engine.lr_finder import restored
from ..engine.state import Epoch, Hook, Run
from ..machine import auto, memory
from ..parallel.distributed import joined
from ..parallel.group import Group
from ..parallel.launch import local_batch
from ..parallel.signals import Signals
from ..recipe.recipe import Recipe
from ..storage.paths import some_path
from . import checks, ending, finish, resume
from .find_lr import range_test
from .ledger import Ledger
from .observe import observed
from .session import Session
from .start import (
    begin,
    finished,
    load_state,
    open_run_dir,
    restore_position,
    resume_advice,
    tracking,
)
from .summary import counts, final_summary, measure_rates, target_summary
from .tuned import tuned


def train(
    recipe: Recipe,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    continued: str | os.PathLike[str] | None = None,
    override: bool = False,
    profile: bool = False,
    display: Display | None = None,
    group: Group | None = None,
    command: str = "fasttrain.train",
    began: float | None = None,
    series: Path | None = None,
    begun: Callable[[], None] = lambda: None,
    on_epoch: Sequence[Hook] = (),
) -> list[Epoch]:
    """Train `recipe` into the run directory `out`, and return the history.

    `continued` is the run directory, or a checkpoint in one, to resume; `override` allows another
    recipe. With `profile`, a few steps are recorded into the run's tensorboard folder. `series` is
    the folder of the series that the run belongs to; resuming then resumes the series. `begun` is
    called once data, device and learning rate are ready, before the first step. `on_epoch` hooks
    run after each epoch, in each process. Under torchrun the
    processes join one group, unless they have already joined `group`. Raises the errors of
    fasttrain.errors; Stopped after a signal, once the checkpoint is saved.
    """
    out, continued = some_path(out), some_path(continued)
    checks.check_arguments(continued, overwrite=overwrite, override=override)
    display = display or Display()
    ledger = Ledger(perf_counter() if began is None else began)
    ledger.parts["import"] = ledger.total
    with Signals() as signals, nullcontext(group) if group else joined() as group:
        # It raises before anything is changed.
        local_batch(recipe.batch_size, group.world, parts=recipe.accumulate)
        rows = finished(continued, recipe, display, group, override=override)
        if rows is not None:
            return rows
        with (
            open_run_dir(recipe, out, overwrite, continued, group) as folder,
            resume_advice(folder, series),
            tracking(recipe, folder, display) as tracker,
        ):
            session = Session(recipe, folder, display, ledger, group, signals, tracker)
            state = load_state(session, continued, override=override)
            folder.announce(recipe.as_dict())
            with memory.reported(recipe.batch_size, group.device(auto.device(recipe.device))):
                data = _load(session, state)
                before, part = recorded(state), ledger.part("tune")
                built = tuned(recipe, data, group, display, recorded=before, counted=part)
                _introduce(session, data, built, fresh=state is None)
                measure_rates(recipe, built, ledger, log=display.log)
                _warm_up(session, built, state)
                sweep = _find_lr(session, built, state)
                position, schedule, best = restore_position(session, built, state)
                begin(session, command, state, position, sweep, data, built)
                begun()
                hooks = observed(
                    session,
                    data,
                    built,
                    position,
                    schedule,
                    best,
                    changed=resume.is_changed(state, recipe),
                    profile=profile,
                )
                with hooks as observers:
                    fit(
                        built.step,
                        built.train,
                        built.test,
                        schedule,
                        recipe.epochs,
                        run=position,
                        on_step=observers.on_step,
                        on_epoch=[*observers.on_epoch, *on_epoch],
                        until=partial(_is_enough, session),
                        total=group.sum,
                        sync_buffers=group.sync_buffers,
                        monitor=recipe.monitor,
                        by_class=data.listing is not None or recipe.balance != "none",
                    )
                if position.history[-1].epoch < recipe.epochs:
                    display.log(f"stopped early: {ending.reason(recipe, position.history)}")
                measure_rates(recipe, built, ledger, log=display.log)
                target = target_summary(session, data, built, position.history)
                target |= final_summary(session, built)
            group.dissolve()  # the report may take minutes and needs only one process
            if group.first:
                finish.report_run(session, data, built, position, observers, target)
            return position.history


def _load(session: Session, state: dict[str, Any] | None) -> Data:
    """Load the data set; DataError if a resumed run was trained on other images."""
    display, group = session.display, session.group
    with session.ledger.part("data"), group.first_on_node(), display.counted() as counted:
        data = splits(session.recipe, log=display.log, bar=display.bar, counted=counted)
    return origin.restored(data, state and state.get("data"))


def _introduce(session: Session, data: Data, built: Built, *, fresh: bool) -> None:
    session.display.log(f"{session.folder.path}: {counts(data)} on {built.device}")
    if session.recipe.init is not None and fresh:
        head = f"new head: {', '.join(built.new_head)}" if built.new_head else "with their head"
        session.display.log(f"  weights of {session.recipe.init}; {head}")
    for name, choice in built.choices.items():
        session.display.log(f"  {name} {choice.value} ({choice.why})")


def _warm_up(session: Session, built: Built, state: dict[str, Any] | None) -> None:
    """Compile and capture before the clock of the first epoch starts; the weights stay as they are.

    DDP rebuilds its buckets after its first backward and then sums in another order. The first
    backward must not be part of a training step, or a resumed run would differ.
    """
    chosen = {built.choices[name].value for name in ("compile", "graphs")}
    needed = "on" in chosen or session.group.world > 1
    if not needed or resume.is_over(state, session.recipe):
        return
    watched = session.group.watched(session.recipe.hang_timeout, lambda: "the warm-up")
    with session.ledger.part("compile"), watched, restored(built.step):
        built.step(*next(iter(built.train)))
        built.step.model.eval()
        with torch.no_grad():
            built.step.predict(next(iter(built.test)).images)
        built.train.seek(1)
        built.test.seek(1)


def _find_lr(session: Session, built: Built, state: dict[str, Any] | None) -> dict[str, Any]:
    """Set the learning rate from the range test and return its curve; empty if not needed."""
    if session.recipe.lr != "auto" or state is not None:
        return {}
    with session.ledger.part("lr_finder"):
        sweep = range_test(session.recipe, built, session.display, session.group)
    built.step.lr = sweep.suggestion
    return sweep._asdict()


def _is_enough(session: Session, run: Run) -> bool:
    """Return whether the target or the time limit is reached at the end of an epoch."""
    enough = ending.enough(session.recipe, run.history, session.ledger.total)
    return run.step == 0 and bool(session.group.max(enough))  # the processes' clocks differ
