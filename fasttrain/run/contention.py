"""Finds out whether fewer threads would be faster, as on cores that other programs use too.

A run that is three times too slow for such a reason looks like any other; two clocks that are read
once an epoch show whether it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor

from ..engine.loop import Run
from ..engine.step import Step
from .ledger import Ledger

# CPU seconds a second and thread. Threads that wait for each other compute all the time, so on
# cores of their own it is near 1; where other programs kept both cores busy it was 0.33.
KEPT_AWAY = 0.75
SLOWER = 1.5  # times as slow as half the threads: less may be chance
SECONDS = 1.0  # that finding out may take
ROUNDS, MOST_ROUNDS, FEWEST_IMAGES = 3, 50, 16
CLOCKS = (perf_counter, process_time)
CHECKS = 3  # in a run: what was not found by then does not hold it up for long


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Until the block ends torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def halved(
    rate: Callable[[int], float], used: int, now: float, *, worth: float
) -> dict[int, float]:
    """The rates with half as many threads and again half, until one is not `worth` times the one
    before; `now` is the rate with `used`."""
    found: dict[int, float] = {}
    count, best = used, now
    while count > 1:
        count //= 2
        found[count] = rate(count)
        if found[count] < worth * best:
            break
        best = found[count]
    return found


class Contention:
    """The `on_epoch` hook that says once when fewer threads would train faster.

    Where the process got less of its cores than it has threads, the forward pass is timed with
    fewer, in turns. Nothing of the training changes: neither weights nor random numbers.
    """

    def __init__(
        self, step: Step, images: np.ndarray, *, ledger: Ledger, log: Callable[[str], None]
    ) -> None:
        """`images` are a batch as a Split has them, (B, H, W, C); `ledger` takes the time."""
        count, height, width, channels = images.shape
        self.step, self.ledger, self.log = step, ledger, log
        self.shape = (count, channels, height, width)
        self.checks = CHECKS if step.device.type == "cpu" and torch.get_num_threads() > 1 else 0
        if self.checks:
            # The call itself ends what MKL decides by itself: then it must not come in mid-run.
            torch.set_num_threads(torch.get_num_threads())
        self.began = [clock() for clock in CLOCKS]

    def epoch(self, run: Run) -> None:
        """Look at the epoch that has just ended."""
        if not self.checks:
            return
        wall, cpu = (clock() - then for clock, then in zip(CLOCKS, self.began, strict=True))
        if cpu < KEPT_AWAY * wall * torch.get_num_threads():
            with self.ledger.part("analysis"):
                found = self.fewer()
            self.checks = 0 if found else self.checks - 1
            if found:
                self.log(_advice(torch.get_num_threads(), *found))
        self.began = [clock() for clock in CLOCKS]

    def fewer(self) -> tuple[int, float] | None:
        """How many threads compute the forward pass at least SLOWER times as fast, and how many
        times; None if none of those tried does."""
        used = torch.get_num_threads()
        images = torch.zeros(self.shape).contiguous(memory_format=torch.channels_last)
        once = self._seconds(images[:FEWEST_IMAGES])  # also the warm-up
        passes = 4 * ROUNDS  # two numbers of threads, each timing after a pass that is not timed
        fits = int(FEWEST_IMAGES * SECONDS / (passes * once))
        images = images[: max(fits, FEWEST_IMAGES)]
        best, gain = used, 1.0
        while best > 1:
            factor = self._compared(images, best, best // 2)
            if factor < SLOWER:
                break
            best, gain = best // 2, gain * factor
        return (best, gain) if best < used else None

    def _compared(self, images: Tensor, many: int, few: int) -> float:
        """How many times as long a forward pass takes with `many` threads as with `few`."""
        taken: dict[int, list[float]] = {many: [], few: []}
        end = perf_counter() + SECONDS / 2
        for done in range(MOST_ROUNDS):
            if done >= ROUNDS and perf_counter() > end:
                break
            for count, seconds in taken.items():
                with threads(count):
                    self._seconds(images)
                    seconds.append(self._seconds(images))
        slow, fast = (sum(sorted(seconds)[:-1]) for seconds in taken.values())  # but the slowest
        return slow / fast

    def _seconds(self, images: Tensor) -> float:
        """Of a forward pass of the eager model in eval mode, as an epoch leaves it."""
        step, began = self.step, perf_counter()
        amp = torch.autocast(step.device.type, dtype=step.amp, enabled=step.amp is not None)
        with torch.no_grad(), amp:
            step.model(images)
        return perf_counter() - began


def _advice(used: int, best: int, gain: float) -> str:
    return (
        f"{used} threads are slower than {best} here: a forward pass takes {gain:.1f} times as "
        "long, as if other programs used the same cores. End them, or stop this run and resume it "
        f"with OMP_NUM_THREADS={best}."
    )
