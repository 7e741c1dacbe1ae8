"""Times the loaders beside the step of the run; the user's own stays unless it holds the step up.

Loaders give the same pixels, so that only their speed differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from statistics import median
from time import perf_counter
from typing import NamedTuple

from ..data import Batch, Loader
from ..loaders.draws import SIDE
from ..models.packed_conv import pack_convolutions
from .candidates import Settings, milliseconds
from .lr_finder import restored
from .step import Step
from .trial import Trial, wait

MAY_COST = 0.01  # of a step: the most that the user's loader may hold it up
IMAGES = {"cuda": 4096, "cpu": 512}  # of 32x32 in one timing: two of a loader's chunks
TURNS = 3


class LoaderTimes(NamedTuple):
    """Seconds a batch of the user's loader `alone`, and a step with each loader, if timed.

    `step` is the step without a loader, `why` what failed, by loader.
    """

    alone: float
    step: float
    beside: dict[str, float]
    why: dict[str, str]


def time_loaders(
    trial: Trial, settings: Settings, step: Step, seconds: float, *, left: float
) -> LoaderTimes:
    """Time the loaders of `trial`; `seconds` is a step's time. What is trained is undone.

    One that takes a hundredth of a step, alone, cannot hold it up more: the others are then not
    timed, nor where that would take more than the seconds `left`. Rank 0's times count in a group.
    """
    group, kind = trial.group, trial.device.type
    batches = _endless(trial.make_loader(trial.loaders[0]))
    first = next(batches).images
    images = IMAGES[kind] * SIDE**2 / first.shape[-1] ** 2
    count = max(2, ceil(images / len(first)))
    alone = _seconds(trial, lambda: [next(batches) for _ in range(count)]) / count
    expected = len(trial.loaders) * (TURNS + 1) * count * (seconds + alone)
    enough = alone <= MAY_COST * seconds or expected > left
    alone, enough = group.broadcast([alone, enough])
    if enough:
        return LoaderTimes(alone, seconds, {}, {})
    beside, why = _beside(trial, settings, step, count)
    for name in trial.loaders:
        if group.max(int(name in why)) and name not in why:
            beside.pop(name)
            why[name] = "was not timed in every process"
    return LoaderTimes(alone, seconds, *group.broadcast([beside, why]))


def fastest(times: LoaderTimes, loaders: Sequence[str]) -> tuple[str, str]:
    """Choose from `loaders`, the user's first; return the name and why."""
    first, step = loaders[0], times.step
    if first in times.beside:
        best = min(times.beside, key=lambda name: times.beside[name])
        chosen = first if times.beside[first] <= (1 + MAY_COST) * times.beside[best] else best
        others = [
            f"{milliseconds(at)} with {name}" for name, at in times.beside.items() if name != chosen
        ]
        said = f"measured: {milliseconds(times.beside[chosen])} ms a step with it"
        said += f" against {', '.join(others)}" if others else ""
        return chosen, "; ".join([said, *(f"{name} {why}" for name, why in times.why.items())])
    share = times.alone / step
    return first, f"measured: a batch in {milliseconds(times.alone)} ms, {share:.2%} of a step"


def _beside(
    trial: Trial, settings: Settings, step: Step, count: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of a step with each loader, and why others have none."""
    seconds: dict[str, list[float]] = {}
    readers: dict[str, Iterator[Batch]] = {}
    why: dict[str, str] = {}
    with restored(step, step.sums):
        pack_convolutions(step.model, packed=settings.convolutions == "packed")
        step.model.train()
        for turn in range(TURNS + 1):  # the first makes and warms up
            for name in trial.loaders:
                if name in why:
                    continue
                try:
                    if not turn:
                        readers[name] = _endless(trial.make_loader(name))
                    took = _seconds(trial, partial(_train, step, readers[name], count))
                except Exception as error:
                    first = (str(error).splitlines() or [""])[0]
                    why[name] = f"dropped: {type(error).__name__}: {first}"[:200]
                    continue
                if turn:
                    seconds.setdefault(name, []).append(took / count)
    return {name: median(times) for name, times in seconds.items() if name not in why}, why


def _train(step: Step, batches: Iterator[Batch], count: int) -> None:
    for _ in range(count):
        step(*next(batches))


def _seconds(trial: Trial, work: Callable[[], object]) -> float:
    wait(trial.device)
    began = perf_counter()
    work()
    wait(trial.device)
    return perf_counter() - began


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader
