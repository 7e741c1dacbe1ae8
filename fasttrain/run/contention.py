"""Detects when fewer threads would be faster because other programs use the same cores.

Such a run can be three times too slow and looks like any other. Two clocks, read once an epoch,
show whether contention is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor

from ..engine.state import Run
from ..engine.step import Step
from .ledger import Ledger

# CPU seconds per second and thread. Threads spin while they wait for each other, so the value is
# near 1 on free cores. It was 0.33 where other programs kept both cores busy.
KEPT_AWAY = 0.75
SLOWER = 1.5  # times as slow as with half the threads: a smaller factor may be noise
SECONDS = 1.0  # time limit of one check
ROUNDS, MOST_ROUNDS, FEWEST_IMAGES = 3, 50, 16
CLOCKS = (perf_counter, process_time)
CHECKS = 3  # per run: limits the time spent if no contention is found


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of torch threads to `count` inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def halved(
    rate: Callable[[int], float], used: int, now: float, *, worth: float
) -> dict[int, float]:
    """Return the rates for repeatedly halved numbers of threads.

    Halving stops when a rate is below `worth` times the one before. `now` is the rate with `used`
    threads.
    """
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
    """The `on_epoch` hook that reports once if fewer threads would train faster.

    If the process got less CPU time than its threads could use, the hook times the forward pass
    with fewer threads, in turns. Training is unaffected: weights and random numbers stay the same.
    """

    def __init__(
        self, step: Step, images: np.ndarray, *, ledger: Ledger, log: Callable[[str], None]
    ) -> None:
        """Take a batch of a Split, `images` (B, H, W, C); `ledger` records the time spent."""
        count, height, width, channels = images.shape
        self.step, self.ledger, self.log = step, ledger, log
        self.shape = (count, channels, height, width)
        self.checks = CHECKS if step.device.type == "cpu" and torch.get_num_threads() > 1 else 0
        if self.checks:
            # This call turns off MKL's own choice of threads. It must not first happen mid-run.
            torch.set_num_threads(torch.get_num_threads())
        self.began = [clock() for clock in CLOCKS]

    def epoch(self, run: Run) -> None:
        """Check the epoch that has just ended."""
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
        """Return the best smaller number of threads and its speedup of the forward pass.

        Return None if no number tried is at least SLOWER times as fast.
        """
        used = torch.get_num_threads()
        images = torch.zeros(self.shape).contiguous(memory_format=torch.channels_last)
        once = self._seconds(images[:FEWEST_IMAGES])  # also the warm-up
        passes = 4 * ROUNDS  # two thread counts; each timed pass follows an untimed one
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
        """Return the time of a forward pass with `many` threads divided by that with `few`."""
        taken: dict[int, list[float]] = {many: [], few: []}
        end = perf_counter() + SECONDS / 2
        for done in range(MOST_ROUNDS):
            if done >= ROUNDS and perf_counter() > end:
                break
            for count, seconds in taken.items():
                with threads(count):
                    self._seconds(images)
                    seconds.append(self._seconds(images))
        slow, fast = (sum(sorted(seconds)[:-1]) for seconds in taken.values())  # drop the slowest
        return slow / fast

    def _seconds(self, images: Tensor) -> float:
        """Time a forward pass of the eager model, which an epoch leaves in eval mode."""
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
