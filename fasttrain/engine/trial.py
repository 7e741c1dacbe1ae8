"""What is to be tuned, and how much of the run measuring may take.

Measuring costs seconds that only a longer run pays back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch

from ..data import Batch, Loader
from ..parallel.group import Group
from .candidates import Settings, Space, Table, timed
from .step import Step

SHARE = 0.03  # of the estimated run, at most
# Seconds beside compiling, at most. With them a start on a slow CPU, its import of torch and its
# data included, stays under 20 s.
LONGEST = 15.0
STEPS = {"cuda": 10, "cpu": 1}  # of one timing: to wait for a GPU after each would slow it
WARM_UP = {"cuda": 2, "cpu": 0}  # steps after the first one, which is compared
OUT_OF_TIME = "a step takes too long to time several"
LEAST = 1.0  # seconds; in less, not even small networks are compared and timed
# Times of the fastest from which a candidate gets no more turns, once it has had the FEWEST.
SLOW = 1.1
SLOW_AT_ONCE, DEAR = 1.5, 0.25  # and before, if two more would take this share of the time left
FEWEST = 3  # timings of each of two candidates that a run must have room for


class Trial(NamedTuple):
    """What the fields of a step may be, and how a step and a loader are made of such words.

    `rule` is what holds without measuring, `reference` the settings whose numbers are the right
    ones. All steps that `make` gives share one network, in eager mode and not wrapped. `loaders`
    are the kinds that this machine has, the user's first. `steps` is the length of the run,
    `most_seconds` what ends it before. `facts()` are what the speed depends on, beside `steps`.
    """

    space: Space
    rule: Settings
    make: Callable[[Settings], Step]
    loaders: tuple[str, ...]
    make_loader: Callable[[str], Loader]
    device: torch.device
    steps: int
    facts: Callable[[], dict[str, object]]
    most_seconds: float | None = None
    group: Group = Group()
    reference: Settings = Settings()

    def batch(self) -> Batch:
        """The first batch of the run."""
        return next(iter(self.make_loader(self.loaders[0])))


def too_short(trial: Trial) -> bool:
    """Whether the share of a run that measuring may take has no room for two candidates."""
    kind = trial.device.type
    each = 1 + WARM_UP[kind] + FEWEST * STEPS[kind]
    return SHARE * trial.steps < 2 * each or limit(trial, {}) < LEAST


def decides(trial: Trial, table: Table) -> bool:
    """Whether `table` says what is fastest: the rule's own settings had a chance in it."""
    rule = table.get(trial.rule._replace(compile="off"))
    return bool(timed(table)) and rule is not None and rule.why != OUT_OF_TIME


def limit(trial: Trial, table: Table) -> float:
    """The seconds that measuring may take beside compiling: known better once a step is timed."""
    most = min(LONGEST / SHARE, trial.most_seconds or math.inf)
    seconds = (row.seconds or 0.0 for row in timed(table).values())
    return SHARE * min(most, trial.steps * min(seconds, default=math.inf))


def still_in(
    seconds: Mapping[Settings, Sequence[float]], firsts: Mapping[Settings, float], *, left: float
) -> list[Settings]:
    """Who gets another turn: all with few timings, unless slow and dear, and all that are as fast.

    `firsts` are the seconds of the first steps, `left` those that are left. Another program can
    make one timing twenty times as long, so that one alone says little.
    """
    known = [times for times in seconds.values() if times]
    shortest = min((min(times) for times in known), default=0.0)
    fastest = min((median(times) for times in known), default=0.0)

    def stays(each: Settings) -> bool:
        times = seconds[each]
        if len(times) >= FEWEST:
            return median(times) <= SLOW * fastest
        at_best = min([firsts[each], *times])
        return not (times and 2 * at_best > DEAR * left and at_best > SLOW_AT_ONCE * shortest)

    return [each for each in seconds if stays(each)]


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
