"""Examines a machine: what it has, what `auto` chooses, and what limits training.

All speeds are measured, in about ten seconds, because a rule written for other hardware may be
wrong. What it trains is thrown away.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np

from ..console.console import Display
from ..data import Data, Split, cifar10, synthetic
from ..engine.build import build
from ..recipe.recipe import Recipe
from .batch_size import largest
from .bottleneck import Measured, untried, verdict
from .inventory import inventory
from .measure import measure, workload

IMAGES = 50_000  # as many as CIFAR-10 has; their content does not change the speed


def examine(recipe: Recipe, *, display: Display | None = None, seconds: float = 10.0) -> Measured:
    """Report the hardware, the choices for `recipe`, their speed and what would gain the most.

    Raises EnvironmentProblem, after reporting the hardware, if the recipe cannot run here.
    """
    log = (display or Display()).log
    log("found")
    found = inventory()
    for name, what in found.items():
        log(f"  {name:10} {what}")
    data = images()
    built = build(recipe, data)
    log("choices")
    log(f"  {'device':10} {built.device}")
    for name, choice in built.choices.items():
        log(f"  {name:10} {choice.value} ({choice.why})")
    log(f"  {'optimizer':10} {_origin(built.step.optimizer)}")
    began = perf_counter()
    load = workload(recipe, built.device, data, seconds=seconds)
    log(f"measured on {built.device}, synthetic images, batch {load.recipe.batch_size}")
    measured = measure(load, seconds=seconds, log=lambda line: log(f"  {line}"))
    log(f"  the measurements took {perf_counter() - began:.0f} s")
    log(verdict(measured))
    for what in untried(measured, allocator=found["allocator"]):
        log(f"  not tried: {what}")
    return measured


def find_batch_size(recipe: Recipe, *, display: Display | None = None) -> int:
    """Report and return the largest batch that fits the eager model of `recipe`; 0 if none."""
    log = (display or Display()).log
    # A graph is captured for one size alone, and its memory would stay.
    built = build(replace(recipe, compile="off", graphs="off", batch_size=1), images())
    next(iter(built.train))  # so that the loader's memory on the device counts too
    found = largest(built.step)
    log(f"largest batch on {built.device}, {built.choices['amp'].value}, not compiled:")
    log(f"  --batch-size {found.batch_size} ({found.how})" if found.batch_size else "  none fits")
    return found.batch_size


def _origin(optimizer: object) -> str:
    """The package and class of an optimizer: torch.SGD, apex.FusedSGD."""
    return f"{type(optimizer).__module__.partition('.')[0]}.{type(optimizer).__name__}"


def images() -> Data:
    """Synthetic splits of CIFAR-10's size, made of a thousand images repeated."""
    few, test = synthetic.load(1000, 250)
    again = np.arange(IMAGES) % len(few.labels)
    return cifar10.data(Split(few.images[again], few.labels[again]), test)
