"""Decodes the images of a listing on all cores, in blocks and in the order of the listing.

A task keeps a core busy for about 50 ms. Large images wait for each other, so memory stays bounded.
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

TASK_BYTES = 1 << 20  # of resized pixels per task
TASK_PIXELS = 8_000_000  # decoded per task


class How(NamedTuple):
    """Where the images come from, and how they are resized."""

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
    """Yield the pixels of `rows` from number `done` on, uint8 (M, side, side, 3), in blocks."""
    at_once = workers.at_once(how.source, len(rows) - done, threads=threads)
    most = TASK_BYTES // (how.side * how.side * 3)
    most = max(1, min(most, 1 + (len(rows) - done) // (4 * at_once)))  # a short list is spread
    step, budget = rows_in_block(how.side), crew.Budget(IN_FLIGHT)
    starts = range(done, len(rows), step)

    def small(task: Sequence[Row]) -> tuple[bytes, dict[int, str]]:
        wanted = [Wanted(row.path, row.sha256, row.height, row.width) for row in task]
        names = f"{task[0].path} to {task[-1].path}"
        with budget.taking(max(row.height * row.width for row in task)):
            return workers.call(reading.small, how.source, wanted, how.side, how.fit, what=names)

    results = crew.streamed(
        small,
        (task for start in starts for task in tasks(rows[start : start + step], most)),
        threads=at_once,
        together=1,
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
    """Yield `rows` in groups of at most `most` and TASK_PIXELS; a larger image is one alone."""
    start = pixels = 0
    for place, row in enumerate(rows):
        pixels += row.height * row.width
        if place > start and (place - start == most or pixels > TASK_PIXELS):
            yield rows[start:place]
            start, pixels = place, row.height * row.width
    yield rows[start:]
