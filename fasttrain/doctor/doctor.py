"""Examines a machine: what it has, what `auto` chooses, and what limits training.

All speeds are measured, because a rule written for other hardware may be wrong. What `auto` is
found to be is remembered for the runs to come; what is trained is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from ..console.console import Display
from ..data import Data, Split, cifar10, synthetic
from ..engine.build import Built, build
from ..engine.candidates import Settings, milliseconds
from ..parallel.group import Group
from ..recipe.recipe import Recipe
from ..run.tuned import tuned
from .batch_size import largest
from .bottleneck import Measured, untried, verdict
from .compiled import compiled_rates
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
    built = chosen(recipe, data, log)
    log("choices")
    log(f"  {'device':12} {built.device}")
    for name, choice in built.choices.items():
        value = _origin(built.step.optimizer) if name == "optimizer" else choice.value
        log(f"  {name:12} {value} ({choice.why})")
    for line in table(built.measured or {}):
        log(line)
    began = perf_counter()
    names = ("amp", "graphs", "loader") if built.measured else ()
    values = {name: built.choices[name].value for name in names}
    recipe = replace(recipe, **values)  # type: ignore[arg-type]
    load = workload(recipe, built.device, data, seconds=seconds)
    log(f"measured on {built.device}, synthetic images, batch {load.recipe.batch_size}")
    measured = measure(load, seconds=seconds, log=lambda line: log(f"  {line}"))
    log(f"  the measurements took {perf_counter() - began:.0f} s")
    log(verdict(measured))
    if recipe.compile == "on":
        compiled_rates(load, seconds=0.1 * seconds, log=lambda line: log(f"  {line}"))
    for what in untried(measured, allocator=found["allocator"]):
        log(f"  not tried: {what}")
    return measured


def chosen(recipe: Recipe, data: Data, log: Callable[[str], None]) -> Built:
    """Build the recipe, with every `auto` measured anew, unless --tune is off."""
    mode = recipe.tune if recipe.tune == "off" else "always"
    return tuned(replace(recipe, tune=mode), data, Group(), Display(), log=log)


def table(measured: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of what `auto` was chosen by: every candidate, the fastest first."""
    rows = measured.get("steps", [])
    if rows:
        yield "measured for auto, in turns"
    for row in sorted(rows, key=lambda row: row["seconds"] or inf):
        words = [row[name] for name in Settings._fields]
        words[0] = "float32" if words[0] == "off" else words[0]
        words[2:4] = [name for name in ("compile", "graphs") if row[name] == "on"] or ["eager"]
        setup = f", {row['setup']:.1f} s once" if row["setup"] else ""
        said = f"{milliseconds(row['seconds'])} ms (n = {row['n']}{setup})" if row["n"] else ""
        yield f"  {' '.join(words):34} {', '.join(filter(None, [said, row['why']]))}"


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
