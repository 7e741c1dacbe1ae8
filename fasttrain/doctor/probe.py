"""Times a loader, a step, and the two together, for a few seconds each.

Every time includes waiting for the device, and is the median of several.
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

LEAST = 3  # timings, unless the first alone takes longer than
PATIENCE = 1.0  # seconds, or what was asked for
LOADED = 1024  # images in a timing of a loader: loaders make about so many at a time
STEPS_A_TIMING = {"cuda": 10, "cpu": 1}  # a wait for the GPU after each step would slow it


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
    loader: Loader, device: torch.device, *, seconds: float, images: int = LOADED
) -> Rate:
    """Of a loader alone: `images` at a time are taken from it and thrown away."""
    batches = _endless(loader)

    def take() -> int:
        seen = 0
        while seen < images:
            seen += len(next(batches).labels)
        return seen

    return _timed(take, device, seconds)


def step_rate(step: Step, batch: Batch, *, seconds: float) -> Rate:
    """Of training steps on one batch that lies ready."""
    step.model.train()
    steps = STEPS_A_TIMING[step.device.type]

    def work() -> int:
        for _ in range(steps):
            step(*batch)
        return steps * len(batch.labels)

    return _timed(work, step.device, seconds)


def training_rate(
    step: Step, loader: Loader, *, seconds: float, images: int = LOADED
) -> tuple[Rate, float]:
    """Of the two together, and the share of the time in which the host waits for a batch."""
    step.model.train()
    batches, waited = _endless(loader), [0.0]

    def work() -> int:
        seen = 0
        while seen < images:
            asked = perf_counter()
            batch = next(batches)
            waited.append(perf_counter() - asked)
            step(*batch)
            seen += len(batch.labels)
        return seen

    work()  # first kernels, first chunk: not what is asked for
    waited.clear()
    began = perf_counter()
    rate = _timed(work, step.device, seconds)
    return rate, sum(waited) / (perf_counter() - began)


def busy_share(step: Step, batch: Batch, *, step_seconds: float) -> float:
    """The share of a step in which the device works.

    The profiler makes the host slower and not the device: its device time is set against
    `step_seconds`, a step's time without it.
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


def _timed(work: Callable[[], int], device: torch.device, seconds: float) -> Rate:
    """Time `work`, which returns its images, for about so long, after once for warming up; where
    that alone takes too long, it is the timing."""
    began = perf_counter()
    images = work()
    _wait(device)
    took = perf_counter() - began
    if took > max(PATIENCE, seconds):
        rate = images / took
        return Rate(rate, 1, rate, rate)
    rates: list[float] = []
    end = perf_counter() + seconds
    for done in count(1):
        began = perf_counter()
        images = work()
        _wait(device)
        rates.append(images / (perf_counter() - began))
        if done >= LEAST and perf_counter() >= end:
            break
    return Rate(median(rates), len(rates), min(rates), max(rates))


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
