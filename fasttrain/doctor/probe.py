"""Times a loader, a step, and the two together, for a few seconds each.

Every timing waits for the device, and each result is the median of several timings, so that one
disturbance does not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import torch

from ..data import Batch, Loader
from ..engine.step import Step
from ..profile.timeline import read, summarise
from ..profile.trace import span, trace

MIN_TIMINGS = 3
MAX_WARM_UP_SECONDS = 1.0  # a longer warm-up call is used as the only timing
IMAGES_PER_TIMING = 1024  # of a loader: loaders prepare about this many at a time
STEPS_PER_TIMING = {"cuda": 10, "cpu": 1}  # waiting for the GPU after each step would slow it


class Rate(NamedTuple):
    """Images per second: the median, lowest and highest of `n` timings."""

    median: float
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        digits = 1 if self.median < 100 else 0
        low, high = f"{self.low:,.{digits}f}", f"{self.high:,.{digits}f}"
        return f"{self.median:>10,.{digits}f} images/s  (median of {self.n}; {low} to {high})"


def loader_rate(
    loader: Loader, device: torch.device, *, seconds: float, images: int = IMAGES_PER_TIMING
) -> Rate:
    """The rate of a loader alone: reads batches of `images` images per timing and drops them."""
    batches = _endless(loader)

    def take() -> int:
        seen = 0
        while seen < images:
            seen += len(next(batches).labels)
        return seen

    return timed(take, device, seconds)


def step_rate(step: Step, batch: Batch, *, seconds: float) -> Rate:
    """The rate of training steps on one batch that is already on the device."""
    step.model.train()
    steps = STEPS_PER_TIMING[step.device.type]

    def work() -> int:
        for _ in range(steps):
            step(*batch)
        return steps * len(batch.labels)

    return timed(work, step.device, seconds)


def training_rate(
    step: Step, loader: Loader, *, seconds: float, images: int = IMAGES_PER_TIMING
) -> tuple[Rate, float]:
    """The rate of training, and the share of time in which the host waits for a batch."""
    step.model.train()
    batches, waited = _endless(loader), [0.0]

    def work() -> int:
        seen = 0
        while seen < images:
            wait_began = perf_counter()
            batch = next(batches)
            waited.append(perf_counter() - wait_began)
            step(*batch)
            seen += len(batch.labels)
        return seen

    work()  # warm-up: first kernels, first chunk
    waited.clear()
    began = perf_counter()
    rate = timed(work, step.device, seconds)
    return rate, sum(waited) / (perf_counter() - began)


def busy_share(step: Step, batch: Batch, *, step_seconds: float) -> float:
    """The share of a step in which the device works.

    The profiler slows down the host but not the device. So the device time of the trace is divided
    by `step_seconds`, the time of a step without the profiler.
    """
    step.model.train()
    written: list[Path] = []
    with TemporaryDirectory() as folder:
        with trace(Path(folder), skip=2, active=4, written=written.append) as next_step:
            for _ in range(6):
                with span("step"):
                    step(*batch)
                next_step(None)
        profile = summarise(read(written[0]))
    assert profile  # four steps were recorded
    return min(1.0, profile.busy * profile.step_seconds / step_seconds)


def timed(work: Callable[[], int], device: torch.device, seconds: float) -> Rate:
    """Time `work`, which returns its number of images, for about `seconds`, after a warm-up call.

    If the warm-up call takes too long, it is the only timing.
    """
    began = perf_counter()
    images = work()
    _wait(device)
    took = perf_counter() - began
    if took > max(MAX_WARM_UP_SECONDS, seconds):
        rate = images / took
        return Rate(rate, 1, rate, rate)
    rates: list[float] = []
    end = perf_counter() + seconds
    for done in count(1):
        began = perf_counter()
        images = work()
        _wait(device)
        rates.append(images / (perf_counter() - began))
        if done >= MIN_TIMINGS and perf_counter() >= end:
            break
    return Rate(median(rates), len(rates), min(rates), max(rates))


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
