"""Decodes the images of a listing on all cores, in blocks and in the listing's order.

A task is as much as keeps a core busy for 50 ms; large images take turns, so that memory is bounded
however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from . import crew, pictures, reading, scan
from .crew import IN_FLIGHT
from .found import Source
from .listing import Row
from .pixels import Block, rows_in_block
from .reading import Wanted
from .workers import Workers

TASK_BYTES = 1 << 20  # of the images that are made before they are handed over
TASK_PIXELS = 8_000_000  # that are decoded before they are handed over


class How(NamedTuple):
    """Where the images come from, and what they become."""

    source: Source
    side: int
    fit: str


def decoded(
    rows: Sequence[Row],
    done: int,
    how: How,
    *,
    workers: Workers,
    threads: int | None,
    progress: scan.Progress,
) -> Iterator[tuple[np.ndarray, Block]]:
    """The pixels of `rows` from the one at `done` on, uint8 (M, side, side, 3), block by block."""
    at_once = workers.at_once(how.source, len(rows) - done, threads=threads)
    most = TASK_BYTES // (how.side * how.side * 3)
    most = max(1, min(most, 1 + (len(rows) - done) // (4 * at_once)))  # few are shared out too
    step, budget = rows_in_block(how.side), crew.Budget(IN_FLIGHT)
    starts = range(done, len(rows), step)

    def small(task: Sequence[Row]) -> tuple[bytes, dict[int, str]]:
        wanted = [Wanted(row.path, row.sha256, row.height, row.width) for row in task]
        names = f"{task[0].path} to {task[-1].path}"
        with budget.taking(max(row.height * row.width for row in task)):
            return workers.call(reading.small, how.source, wanted, how.side, how.fit, what=names)

    results = crew.in_order(
        small,
        (task for start in starts for task in tasks(rows[start : start + step], most)),
        threads=at_once,
        abandon=workers.stop,
    )
    with pictures.quiet(), closing(results):
        for start in starts:
            block = rows[start : start + step]
            pixels = np.empty((len(block), how.side, how.side, 3), np.uint8)
            bad: dict[str, str] = {}
            good = training = 0
            for task in tasks(block, most):
                made, reasons = next(results)
                found = np.frombuffer(made, np.uint8).reshape(-1, *pixels.shape[1:])
                pixels[good : good + len(found)] = found
                good += len(found)
                bad.update((task[place].sha256, why) for place, why in reasons.items())
                kept = (row for place, row in enumerate(task) if place not in reasons)
                training += sum(row.split == "train" for row in kept)
                done += len(task)
                progress(done, len(rows))
            yield pixels[:good], Block(len(block), good, "", training, bad=bad)


def tasks(rows: Sequence[Row], most: int) -> Iterator[Sequence[Row]]:
    """`rows` in groups of `most` and TASK_PIXELS at most, or of a single larger image."""
    start = pixels = 0
    for place, row in enumerate(rows):
        pixels += row.height * row.width
        if place > start and (place - start == most or pixels > TASK_PIXELS):
            yield rows[start:place]
            start, pixels = place, row.height * row.width
    yield rows[start:]
