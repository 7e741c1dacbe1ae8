"""Times candidates for a step in turns, on the weights and the batch of the run, and undoes it all.

In turns, because other programs come and go: what slows one candidate then slows its rivals too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter

import torch

from ..data import Batch
from ..models.packed_conv import pack_convolutions
from .candidates import Row, Settings, Table, choose, may_pay, stages
from .lr_finder import restored
from .same_numbers import LR, Outcome, difference, outcome
from .step import Step
from .trial import FEWEST, OUT_OF_TIME, STEPS, WARM_UP, Trial, decides, limit, still_in, wait

PART = 32  # images; packed convolutions take no fewer
MOST = 7  # turns; more than the FEWEST only in the first half of the time


class Turns:
    """The timing of one trial: `table` grows stage by stage; `made` has the step of the best.

    A candidate that raises, or that computes something else than the reference, gets a row that
    says so. Several processes time the same candidates at the same time, each on its own, without
    their communication; what fails in one counts as failed in all, and rank 0's times count.
    """

    def __init__(self, trial: Trial, *, progressed: Callable[[], object] = lambda: None) -> None:
        self.trial, self.table, self.made = trial, Table(), dict[Settings, Step]()
        self._progressed = progressed
        self._reference: Outcome | None = None
        self._steps, self._warm_up = STEPS[trial.device.type], WARM_UP[trial.device.type]
        self._began, self._setting_up = perf_counter(), 0.0
        self._firsts: dict[Settings, float] = {}
        self._share, self._note = 1.0, ""  # of a step's images, and what is said of it

    def run(self) -> Table:
        """Time all stages; leave the network, its optimizers and torch's random state untouched."""
        trial, best = self.trial, self.trial.rule
        batch = self._affordable(trial.batch())
        for number, stage in enumerate(stages(trial.space, trial.rule)):
            candidates = [each for each in stage(best) if each not in self.table]
            compiles = any(each.compile == "on" for each in candidates)
            if not candidates or (compiles and not may_pay(self.table, trial.steps)):
                continue
            self._compare(candidates, batch)
            first = candidates[0]  # the rule's own settings: without them nothing is decided
            if first in self.made or self.table[first].why != OUT_OF_TIME:
                self._take_turns([best, *candidates] if number else candidates, batch)
            self._agree(candidates)
            if not decides(trial, self.table):
                break
            best = choose(self.table, steps=trial.steps)
            self.made = {best: self.made[best]} if best in self.made else {}
            if trial.device.type == "cuda":
                self._free()
        return self.table

    def _affordable(self, batch: Batch) -> Batch:
        """The batch, or on a CPU, where whole ones would take too long, PART of its images.

        A CPU takes nearly as long for an image in either.
        """
        count, part = len(batch.labels), Batch(batch.images[:PART], batch.labels[:PART])
        if self.trial.device.type != "cpu" or count <= PART:
            return batch
        first = self.trial.reference
        self._first(first, part)
        candidates = stages(self.trial.space, self.trial.rule)[0](self.trial.rule)
        whole = self._firsts.pop(first, 0.0) * count / PART
        self._reference = None
        self.made.pop(first, None), self.table.pop(first, None)
        if whole * (len(candidates) + 3) <= self.seconds_left():
            return batch
        self._share, self._note = count / PART, f"on {PART} of {count} images"
        return part

    def seconds_left(self) -> float:
        """The seconds that are left for measuring, beside compiling and capturing."""
        return limit(self.trial, self.table) - (perf_counter() - self._began - self._setting_up)

    def _compare(self, candidates: list[Settings], batch: Batch) -> None:
        """Make each candidate and compare its first step, which is undone, with the reference."""
        first = self.trial.reference
        if self._reference is None and first not in candidates:
            self._first(first, batch)
            self.made.pop(first, None)
            self.table.pop(first, None)
        waiting = sorted(candidates, key=lambda each: each != first)
        while waiting:
            # The others may be twice as fast; each needs a first step, and two must be timed. A
            # GPU's first steps take a second or more, and the next ones thousandths.
            longest = max(self._firsts.values(), default=0.0)
            expected = longest / 2 * (len(waiting) + 2) if self._steps == 1 else 0.0
            if expected > self.seconds_left():
                self.table |= {each: Row(why=OUT_OF_TIME) for each in waiting}
                return
            self._first(waiting.pop(0), batch)

    def _first(self, each: Settings, batch: Batch) -> None:
        began = perf_counter()
        with self._caught(each):
            step = self.trial.make(each)
            with restored(step, step.sums):
                self._use(each, step)
                found = outcome(step, batch)
                wait(self.trial.device)
                took = perf_counter() - began
                for _ in range(self._warm_up):
                    step(*batch)
                wait(self.trial.device)
            self._reference = expected = self._reference or found
            if problem := difference(found, expected, each.amp):
                self.table[each] = Row(why=f"refused: {problem}")
                return
            sets_up = took if "on" in (each.compile, each.graphs) else 0.0
            # A GPU's first step loads its kernels and lets cuDNN choose: every run pays for that.
            self._setting_up += took if self.trial.device.type == "cuda" else sets_up
            self._firsts[each] = took
            self.made[each], self.table[each] = step, Row(setup=sets_up, why=OUT_OF_TIME)
        self._progressed()

    def _take_turns(self, rivals: list[Settings], batch: Batch) -> None:
        """Time `rivals` one after the other, several times; leave out who is clearly slower."""
        seconds: dict[Settings, list[float]] = {each: [] for each in rivals if each in self.made}
        with ExitStack() as undo:
            for each in seconds:
                undo.enter_context(restored(self.made[each], self.made[each].sums))
            for turn in range(MOST):
                left, most = self.seconds_left(), limit(self.trial, self.table)
                made = {each: seconds[each] for each in seconds if each in self.made}
                rivals = still_in(made, self._firsts, left=left / self._steps)
                took = sum(seconds[each][-1] * self._steps for each in rivals if seconds[each])
                enough = len(rivals) < 2 or (turn >= FEWEST and left < most / 2)
                if (turn and enough) or took > left:
                    break
                for each in rivals:
                    with self._caught(each):
                        seconds[each].append(self._time(each, batch))
                        times, known = seconds[each], self.table[each]
                        setup = known.setup if known.n else max(0.0, known.setup - times[0])
                        self.table[each] = Row(
                            median(times) * self._share, len(times), setup, self._note
                        )

    def _time(self, each: Settings, batch: Batch) -> float:
        """The seconds of one step."""
        step = self.made[each]
        self._use(each, step)
        wait(self.trial.device)
        began = perf_counter()
        for _ in range(self._steps):
            step(*batch)
        wait(self.trial.device)
        self._progressed()
        return (perf_counter() - began) / self._steps

    def _use(self, each: Settings, step: Step) -> None:
        """Make the network, which all steps share, what this one needs."""
        pack_convolutions(step.model, packed=each.convolutions == "packed")
        step.model.train()
        step.lr = LR

    @contextmanager
    def _caught(self, each: Settings) -> Iterator[None]:
        """Drop a candidate that raises, whatever it raises; memory may have run out."""
        try:
            yield
            return
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            self.table[each] = Row(why=f"dropped: {type(error).__name__}: {first}"[:200])
            self.made.pop(each, None)
        self._free()  # here the error, and with it the step's memory, is gone

    def _agree(self, candidates: list[Settings]) -> None:
        """Make the table that of rank 0, without what failed in any process."""
        group = self.trial.group
        for each in candidates:
            if group.max(int(each not in self.made)) and each in self.made:
                self.made.pop(each)
                self.table[each] = Row(why="dropped: it was not timed in every process")
        rows = group.broadcast([[*each, *row] for each, row in self.table.items()])
        width = len(Settings._fields)
        self.table = {Settings(*row[:width]): Row(*row[width:]) for row in rows}

    def _free(self) -> None:
        gc.collect()
        if self.trial.device.type == "cuda":
            torch.cuda.empty_cache()
