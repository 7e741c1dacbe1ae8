"""One training run: its parts, and all that happens around the loop."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from ..console.console import Display
from ..console.eta import Plan
from ..data import origin
from ..engine import monitors
from ..engine.build import build, schedule, splits
from ..engine.loop import Epoch, Hook, Run, fit
from ..engine.lr_finder import restored
from ..errors import Stopped
from ..parallel.group import Group
from ..parallel.signals import Signals
from ..recipe.named import faster
from ..recipe.recipe import Recipe
from . import resume
from .agreement import every_few_steps, stop_on_signal
from .bystander import NullRunDir
from .contention import Contention
from .find_lr import range_test
from .ledger import Ledger, summarise
from .profiling import Profiling
from .rundir import RunDir
from .saving import Saver, settle
from .summary import (
    class_summary,
    counts,
    data_summary,
    final_summary,
    measure_rates,
    target_summary,
)
from .tensorboard import scalars


class Training:
    """One run: its parts, and what happens around the loop."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunDir | NullRunDir,
        display: Display,
        signals: Signals,
        ledger: Ledger,
        group: Group,
        *,
        profile: bool = False,
    ) -> None:
        self.recipe, self.folder, self.display = recipe, folder, display
        self.signals, self.ledger, self.group = signals, ledger, group
        self.position, self.sweep = Run(), dict[str, Any]()
        self.best: Epoch | None = None  # the one in best.pt
        recorded = folder if profile and isinstance(folder, RunDir) else None
        self.profiling = Profiling(recorded, display) if recorded else None

    def prepare(self, state: dict[str, Any] | None) -> None:
        """Load the data, build the parts, find the rate, go on from `state`; write nothing yet."""
        recipe = self.recipe
        show = self.display
        with self.ledger.part("data"), self.group.first_on_node(), show.counted() as counted:
            self.data = splits(recipe, log=show.log, bar=show.bar, counted=counted)
        self.data = origin.restored(self.data, state and state.get("data"))
        self.verified = origin.verification(self.data)
        built = self.built = build(recipe, self.data, self.group)
        self._introduce()
        measure_rates(recipe, built, self.ledger, log=self.display.log)
        over = state is not None and resume.is_over(state, recipe)
        self.changed = state is not None and not over and state["recipe"] != recipe.as_dict()
        # DDP lays its buckets anew after its first backward and then sums in another order: that
        # one must not be a step of the run, or a resumed run would differ.
        if (built.choices["compile"].value == "on" or self.group.world > 1) and not over:
            with self.ledger.part("compile"):
                self._warm_up()
        if recipe.lr == "auto" and state is None:
            with self.ledger.part("lr_finder"):
                self._find_lr()
        self.schedule = schedule(recipe, built.step, steps=recipe.epochs * len(built.train))
        if state:
            self.position = resume.restore(state, built.step, self.schedule, self.group)
            if recipe.lr not in ("auto", state["recipe"]["lr"]):
                built.step.lr = float(recipe.lr)
                self.schedule.aim(float(recipe.lr))
            self.schedule.seek(self.position.epoch * len(built.train) + self.position.step)
            self.ledger.load_state_dict(state["ledger"])
            self.best = settle(self.folder, state, self.display.log, monitor=recipe.monitor)
        built.train.seek(self.position.epoch + 1, self.position.step)

    def run(self) -> None:
        """Train to the end, keeping checkpoints; after a signal, save and raise Stopped."""
        built = self.built
        plan = Plan(
            self.recipe.epochs,
            len(built.train),
            self.recipe.batch_size,
            len(built.test),
            len(self.data.held_out.labels),
            built.device.type == "cpu",
            faster(self.recipe.recipe, self.recipe.target_accuracy),
            self.data.chooses,
        )
        with ExitStack() as stack:
            with self.ledger.part("import"):
                mine = self.folder.tensorboard if isinstance(self.folder, RunDir) else None
                write = stack.enter_context(scalars(mine, self.position.history, self.data.chooses))
            shown = stack.enter_context(self.display.follow(plan))
            stack.enter_context(self.signals.polled())
            saver = stack.enter_context(self._saver())
            saver.check(self.position)
            if self.changed:  # or, killed now, its checkpoint would not be of its recipe
                saver.now(self.position)
            stop = stop_on_signal(self.group, self.signals)
            images = self.data.train.images[: plan.batch_size]
            slowed = Contention(built.step, images, ledger=self.ledger, log=self.display.log)
            together = partial(every_few_steps, self.group, built.device)
            on_step: list[Hook] = [shown.step, together(saver.step, stop)]
            if self.profiling:
                on_step.insert(0, stack.enter_context(self.profiling.record(built, self.position)))
            try:
                fit(
                    built.step,
                    built.train,
                    built.test,
                    self.schedule,
                    self.recipe.epochs,
                    run=self.position,
                    on_step=on_step,
                    on_epoch=[saver.epoch, shown.epoch, write, stop, slowed.epoch],
                    until=self._enough,
                    total=self.group.sum,
                    sync_buffers=self.group.sync_buffers,
                    monitor=self.recipe.monitor,
                )
            except Stopped:
                saver.now(self.position)
                self.group.max(0)  # none leaves before rank 0 has saved
                raise
        self.best = saver.best
        measure_rates(self.recipe, built, self.ledger, log=self.display.log)
        self.reckoning = target_summary(
            self.recipe,
            built,
            self.position.history,
            self.ledger,
            self.group,
            self.data.chooses,
        )
        with self.ledger.part("eval"):
            final = final_summary(self.folder, built, self.group)
        self.reckoning |= data_summary(self.data, self.recipe.monitor) | final

    def sum_up(self, *, finished: bool = False) -> dict[str, Any]:
        """Write and return summary.json; once the report is drawn, again as that of a finished
        run."""
        built, rows = self.built, self.position.history
        with self.ledger.part("analysis"):
            summary = summarise(
                [monitors.line(row) for row in rows],
                built.step.model,
                gemm_rates=self.ledger.rates[built.step.amp or torch.float32],
                best_epoch=self.best and self.best.epoch,
                held_out=self.data.chooses,
                side=self.data.side,
            )
        parts = self.ledger.parts
        parts["eval"] = self.position.eval_seconds
        parts["data_wait"] = summary["data_wait_seconds"]
        parts["train"] = summary["train_seconds"] - parts["data_wait"]
        summary |= self.reckoning | (class_summary(self.folder.path) if finished else {})
        for name in ("compile", "lr_finder", "eval", "checkpoint", "analysis"):
            summary[f"{name}_seconds"] = parts[name]
        summary["mfu"] /= self.group.world  # of one device, as images/s are of all
        summary["ledger"] = self.ledger.split()
        summary["total_seconds"], summary["finished"] = self.ledger.total, finished
        self.folder.write_json("summary.json", summary)
        return summary

    def report_profile(self) -> None:
        """Say and keep where the time of the recorded steps went, if they were to be recorded."""
        if self.profiling:
            self.profiling.tell(self.built, self.position)

    def _saver(self) -> Saver:
        def capture(run: Run) -> dict[str, Any]:
            if run.epoch or run.step:
                self.verified()  # before a checkpoint counts
            parts = run, self.built.step, self.schedule, self.recipe, self.group
            return resume.capture(*parts, data=self.data)

        return Saver(
            self.folder,
            capture,
            self.ledger,
            every=self.recipe.save_every,
            best=self.best,
            agree=lambda due: bool(self.group.max(due and self.group.first)),
            monitor=self.recipe.monitor,
            held_out=self.data.chooses,
        )

    def _enough(self, run: Run) -> bool:
        """Whether the target or the time limit has been reached, at the end of an epoch."""
        enough = resume.enough(self.recipe, run.history, self.ledger.total)
        return run.step == 0 and bool(self.group.max(enough))  # clocks differ

    def _introduce(self) -> None:
        self.display.log(f"{self.folder.path}: {counts(self.data)} on {self.built.device}")
        for name, choice in self.built.choices.items():
            self.display.log(f"  {name} {choice.value} ({choice.why})")

    def _warm_up(self) -> None:
        """Compile before the clock of the first epoch starts, leaving no trace in the weights."""
        built = self.built
        with restored(built.step):
            built.step(*next(iter(built.train)))
            built.step.model.eval()
            with torch.no_grad():
                built.step.predict(next(iter(built.test)).images)
        built.train.seek(1)
        built.test.seek(1)

    def _find_lr(self) -> None:
        sweep = range_test(self.recipe, self.built, self.display, self.group)
        self.sweep, self.built.step.lr = sweep._asdict(), sweep.suggestion
