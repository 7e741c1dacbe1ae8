"""The sprint to 94 %, with as many seeds as there is time for, and airbench's train94 in turns.

Seconds from images in memory to a target say more of a machine than any rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu import images, toy
from benchmarks.gpu.plan import installed
from benchmarks.gpu.record import Job, LeftOut, said
from benchmarks.peers import airbench94
from benchmarks.series import without_reports
from fasttrain.cli import repeat
from fasttrain.errors import DataError
from fasttrain.recipe.recipe import Recipe, make

TARGET = 0.94
MOST = 20  # seeds
GROUP = "sprint to 94.00%"
COMMAND = "python -m benchmarks.gpu"


def measure(job: Job) -> None:
    """Let the two take turns, a seed each, until the longest turn would not fit any more."""
    given = {"recipe": "sprint", "target_accuracy": TARGET, **(toy.SPRINT if job.toy else {})}
    turns: list[Callable[[], None]] = []
    if not job.toy:
        try:
            cache_dir = images.real(job)
        except DataError as error:
            raise LeftOut(str(error)) from None
        given["cache_dir"] = str(cache_dir)
        turns += _peer(job, cache_dir)
    turns.insert(0, _Series(job, make(given)).seed)
    longest = 0.0
    for _ in range(2 if job.toy else MOST):
        if job.left() < 1.2 * longest:
            break
        began = time.monotonic()
        for turn in list(turns):
            try:
                turn()
            except Exception as error:
                if turn == turns[0]:
                    raise
                job.record.note(f"airbench: left out: {said(error)}")
                turns.remove(turn)
        longest = max(longest, time.monotonic() - began)


def _peer(job: Job, cache_dir: Path) -> list[Callable[[], None]]:
    """The peer's turn, if it is here and can start."""
    if not installed("airbench"):
        job.record.note("airbench: left out: not installed")
        return []
    try:
        return [_Peer(job, cache_dir).seed]
    except Exception as error:
        job.record.note(f"airbench: left out: {said(error)}")
        return []


class _Series:
    """fasttrain's runs, as `--runs` makes them, but for their reports, which take seconds each."""

    def __init__(self, job: Job, recipe: Recipe) -> None:
        self.job, self.recipe, self.count = job, recipe, 0
        self.folder = job.scratch / "sprint"

    def seed(self) -> None:
        """Train the next seed; record the series so far."""
        self.count += 1
        there = self.folder if self.count > 1 else None
        with without_reports():
            found = repeat.train_runs(
                self.recipe,
                self.count,
                out=None if there else self.folder,
                continued=there,
                command=COMMAND,
            )
        found["recipe"].pop("cache_dir", None)  # a place on this machine
        environment = self.job.record.found["environment"]
        self.job.record.put("series", {**found, "environment": environment})
        self.job.record.row({"group": GROUP, "provider": "fasttrain", "n": 1, **found["runs"][-1]})


class _Peer:
    """airbench's runs on the same images."""

    def __init__(self, job: Job, cache_dir: Path) -> None:
        self.job = job
        self.peer = airbench94.Airbench(job.scratch / "airbench", cache_dir)

    def seed(self) -> None:
        """Train once; record its seconds and accuracies."""
        self.job.record.row({"group": GROUP, "provider": "airbench", "n": 1, **self.peer.run()})
