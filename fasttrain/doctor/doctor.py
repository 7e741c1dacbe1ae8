"""Looks at a machine: what is there, which path each choice takes, and what limits training.

It keeps nothing of what it trains; what it says of speed it has measured, in about ten seconds.
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
from .measure import measure, subject

IMAGES = 50_000  # as many as CIFAR-10 has; what is on them does not change the speed


def examine(recipe: Recipe, *, display: Display | None = None, seconds: float = 10.0) -> Measured:
    """Say what was found, what `recipe` would take, how fast that is, and what would gain most.

    Raises EnvironmentProblem, after saying what was found, where the recipe cannot run.
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
    looked_at = subject(recipe, built.device, data, seconds=seconds)
    log(f"measured on {built.device}, synthetic images, batch {looked_at.recipe.batch_size}")
    measured = measure(looked_at, seconds=seconds, log=lambda line: log(f"  {line}"))
    log(f"  all this took {perf_counter() - began:.0f} s")
    log(verdict(measured))
    for what in untried(measured, allocator=found["allocator"]):
        log(f"  not tried: {what}")
    return measured


def find_batch_size(recipe: Recipe, *, display: Display | None = None) -> int:
    """Say and return the largest batch that fits, by the eager model of `recipe`; 0 if none."""
    log = (display or Display()).log
    built = build(replace(recipe, compile="off", batch_size=1), images())
    next(iter(built.train))  # what the loader keeps on the device is there too
    found = largest(built.step)
    log(f"largest batch on {built.device}, {built.choices['amp'].value}, not compiled:")
    log(f"  --batch-size {found.batch_size} ({found.how})" if found.batch_size else "  none fits")
    return found.batch_size


def _origin(optimizer: object) -> str:
    """torch.SGD, apex.FusedSGD: whose optimizer it is."""
    return f"{type(optimizer).__module__.partition('.')[0]}.{type(optimizer).__name__}"


def images() -> Data:
    """As many images as CIFAR-10 has, a thousand of them again and again."""
    few, test = synthetic.load(1000, 250)
    again = np.arange(IMAGES) % len(few.labels)
    return cifar10.data(Split(few.images[again], few.labels[again]), test)
