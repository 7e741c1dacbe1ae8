"""The hooks of a run: progress, checkpoints, TensorBoard, signals, contention and the profiler.

Hooks keep these concerns out of the training loop. None changes the loop, except the one that
raises Stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from ..console.eta import Plan
from ..data import Data, origin
from ..engine import monitors
from ..engine.build import Built
from ..engine.state import Epoch, Hook, Run
from ..errors import Stopped
from ..optim.warm_up import AnySchedule
from ..recipe.named import faster
from . import resume, source
from .agreement import describe_position, every_few_steps, stop_on_signal
from .contention import Contention
from .profiling import Profiling
from .rundir import RunDir
from .saving import Saver
from .session import Session
from .tensorboard import scalars


class Observers(NamedTuple):
    """The open hooks of a run, with the saver and profiler that are needed when it ends."""

    on_step: list[Hook]
    on_epoch: list[Hook]
    saver: Saver
    profiling: Profiling | None


@contextmanager
def observed(
    session: Session,
    data: Data,
    built: Built,
    position: Run,
    schedule: AnySchedule,
    best: Epoch | None,
    *,
    changed: bool,
    profile: bool,
) -> Iterator[Observers]:
    """Open the hooks for the duration of training; after a signal, save and raise Stopped.

    `best` is the epoch in best.pt. `changed` means that the resumed checkpoint has another recipe.
    It is then saved again at once: a run killed now would otherwise hold a checkpoint that
    contradicts its recipe.
    """
    recipe, folder, display, ledger, group, signals, tracker = session
    verified, made_by = origin.verification(data), source.digest_of(recipe)
    choices = {"choices": {name: choice.value for name, choice in built.choices.items()}}

    def capture(run: Run) -> dict[str, Any]:
        if run.epoch or run.step:
            verified()  # before a checkpoint of trained weights
        return (
            resume.capture(run, built.step, schedule, recipe, group, data=data) | made_by | choices
        )

    with ExitStack() as stack:
        mine = folder if isinstance(folder, RunDir) else None
        with ledger.part("import"):
            scalars_folder = mine.tensorboard if mine else None
            write = stack.enter_context(scalars(scalars_folder, position.history, data.chooses))
        progress = stack.enter_context(display.follow(_plan(session, data, built)))
        stack.enter_context(signals.polled())
        where = partial(describe_position, position)
        progressed = stack.enter_context(group.watched(recipe.hang_timeout, where))
        saver = Saver(
            folder,
            capture,
            ledger,
            every=recipe.save_every,
            numbered=recipe.checkpoint_every,
            keep=recipe.keep,
            best=best,
            agree=lambda due: bool(group.max(due and group.first)),
            monitor=recipe.monitor,
            held_out=data.chooses,
        )
        stack.enter_context(saver)
        saver.check(position)
        if changed:
            saver.now(position)
        stop = stop_on_signal(group, signals)
        images = data.train.images[: recipe.batch_size]
        contention = Contention(built.step, images, ledger=ledger, log=display.log)
        on_step: list[Hook] = [
            progress.step,
            every_few_steps(group, built.device, saver.step, stop),
            progressed,
        ]
        on_epoch: list[Hook] = [
            saver.epoch,
            progressed,
            progress.epoch,
            write,
            lambda run: tracker.epoch(monitors.line(run.history[-1], data.chooses)),
            stop,
            contention.epoch,
        ]
        profiling = Profiling(mine, display) if profile and mine else None
        if profiling:
            on_step.insert(0, stack.enter_context(profiling.record(built, position)))
        try:
            yield Observers(on_step, on_epoch, saver, profiling)
        except Stopped:
            progressed()
            saver.now(position)
            group.max(0)  # every process waits until rank 0 has saved
            raise


def _plan(session: Session, data: Data, built: Built) -> Plan:
    recipe = session.recipe
    return Plan(
        recipe.epochs,
        len(built.train),
        recipe.batch_size,
        len(built.test),
        len(data.held_out.labels),
        built.device.type == "cpu",
        faster(recipe.recipe, recipe.target_accuracy),
        data.chooses,
    )
