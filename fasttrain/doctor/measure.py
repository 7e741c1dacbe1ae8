"""Measures a recipe on this machine, and the recipe with one setting changed.

Each variant is built as a run builds it, so that the timings are those that a run would get.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import log2
from typing import NamedTuple

import torch

from ..data import Batch, Data
from ..engine.build import Built, build
from ..errors import EnvironmentProblem
from ..machine.auto import NOT_MEASURED, precisions
from ..models.flops import training_flops
from ..recipe.recipe import FIELDS, Recipe
from ..run.contention import halved, threads
from ..run.ledger import arithmetic, gemm_rate
from .bottleneck import WORTH, Measured, Trial, combined_rate
from .probe import IMAGES_PER_TIMING, Rate, busy_share, loader_rate, step_rate, training_rate

SMALLEST_BATCH, LARGEST_BATCH = 2, 4096  # tried; BatchNorm refuses a batch of one
Log = Callable[[str], None]


class Workload(NamedTuple):
    """What is measured: a recipe, its built parts, one batch, and the images."""

    recipe: Recipe
    built: Built
    batch: Batch
    data: Data


def workload(recipe: Recipe, device: torch.device, data: Data, *, seconds: float) -> Workload:
    """Build the recipe, compiled only if `compile` is "on", on a slow CPU with a smaller batch.

    A step then takes about a tenth of `seconds`. On a CPU the batch size hardly changes the images
    per second.
    """
    if recipe.compile == "auto":
        recipe = replace(recipe, compile="off")
    if device.type == "cpu" and recipe.batch_size > SMALLEST_BATCH:
        pilot = _build(replace(recipe, batch_size=SMALLEST_BATCH, compile="off"), data)
        speed = step_rate(pilot.built.step, pilot.batch, seconds=0).median
        size = 2 ** int(log2(max(SMALLEST_BATCH, speed * seconds / 10)))
        recipe = replace(recipe, batch_size=min(recipe.batch_size, size))
    return _build(recipe, data)


def measure(load: Workload, *, seconds: float, log: Log) -> Measured:
    """Time the loader, the step, both, and the other choices; log a line for each."""
    built, batch = load.built, load.batch
    step = step_rate(built.step, batch, seconds=0.25 * seconds)
    log(f"{'step':24} {step}")
    loader = loader_rate(built.train, built.device, seconds=0.1 * seconds)
    log(f"{'loader ' + built.choices['loader'].value:24} {loader}")
    both, waiting = _training(load, loader, step, seconds, log)
    busy = None
    if built.device.type == "cuda":
        busy = busy_share(built.step, batch, step_seconds=len(batch.labels) / step.median)
        log(f"{'GPU busy':24} {busy:10.0%} of a step")
    return Measured(
        batch_size=load.recipe.batch_size,
        loader=loader.median,
        step=step.median,
        both=both,
        wait=waiting,
        mfu=_mfu(load, step, min(1.0, 0.1 * seconds), log),
        spread=(step.high - step.low) / step.median,
        busy=busy,
        compiled=built.choices["compile"].value == "on",
        steps=list(_steps(load, 0.1 * seconds, log)),
        loaders=list(_loaders(load, 0.1 * seconds, log)),
    )


def changes(recipe: Recipe, built: Built) -> Iterator[tuple[str, str, Recipe]]:
    """Yield (kind, flags, recipe) of the other settings of the step.

    For a compiled recipe it is the eager step alone, since compiling each other takes a minute.
    """
    if recipe.compile == "on":
        yield "compile", "--compile off", replace(recipe, compile="off")
        return
    for amp in precisions(built.device):
        if amp != built.choices["amp"].value:
            yield "precision", f"--amp {amp}", replace(recipe, amp=amp)
    if built.choices["graphs"].why == NOT_MEASURED:
        yield "graphs", "--graphs on", replace(recipe, graphs="on")
    larger = 4 * recipe.batch_size
    if built.device.type == "cuda" and larger <= LARGEST_BATCH:
        yield "batch", f"--batch-size {larger}", replace(recipe, batch_size=larger)


def _build(recipe: Recipe, data: Data) -> Workload:
    built = build(recipe, data)
    return Workload(recipe, built, next(iter(built.train)), data)


def _training(
    load: Workload, loader: Rate, step: Rate, seconds: float, log: Log
) -> tuple[float, float]:
    """Images per second of loader and step together, and the share of time waiting for data."""
    if step.median * 0.1 * seconds < IMAGES_PER_TIMING:
        # A loader prepares many images at a time, so a few steps would not show its cost.
        both = combined_rate(loader.median, step.median)
        waiting = 1 - both / step.median
        log(f"{'both':24} {both:10,.1f} images/s  (computed), {waiting:.2%} waiting for data")
        return both, waiting
    rate, waiting = training_rate(load.built.step, load.built.train, seconds=0.2 * seconds)
    log(f"{'both':24} {rate}, {waiting:.2%} waiting for data")
    return rate.median, waiting


def _mfu(load: Workload, step: Rate, seconds: float, log: Log) -> float:
    kind = arithmetic(load.built.step.amp, load.built.device)
    peak = gemm_rate(load.built.device, kind, seconds=seconds)
    used = step.median * training_flops(load.built.step.model) / peak
    name = str(kind).removeprefix("torch.")
    log(f"{'matrix product, ' + name:24} {peak / 1e9:10,.0f} GFLOP/s; the step uses {used:.0%}")
    return used


def _steps(load: Workload, seconds: float, log: Log) -> Iterator[Trial]:
    for kind, flags, recipe in changes(load.recipe, load.built):
        other = _build(replace(recipe, loader="resident"), load.data)
        rate = step_rate(other.built.step, other.batch, seconds=seconds)
        log(f"{'step, ' + flags:24} {rate}")
        yield Trial(kind, flags, rate.median)
    if load.built.device.type == "cpu":
        yield from _thread_counts(load, seconds, log)


def _thread_counts(load: Workload, seconds: float, log: Log) -> Iterator[Trial]:
    """Try all cores, if fewer are in use; then half of the threads, as long as that gains.

    On cores that other programs use too, the threads of each small operator wait for the thread
    that has no core: with two a step took up to sixteen times as long as with one.
    """
    cores, used = _cores(), torch.get_num_threads()

    def rate(count: int) -> float:
        with threads(count):
            found = step_rate(load.built.step, load.batch, seconds=seconds)
        log(f"{f'step, threads: {count}':24} {found}")
        return found.median

    found = {} if cores == used else {cores: rate(cores)}
    if used > 1:
        now = rate(used)  # measured again, since the load of other programs changes
        found |= halved(rate, used, now, worth=WORTH)
    for count, speed in found.items():
        yield Trial("threads", f"OMP_NUM_THREADS={count} instead of {used}", speed)


def _loaders(load: Workload, seconds: float, log: Log) -> Iterator[Trial]:
    for name in FIELDS["loader"].metadata["choices"]:
        if name in ("auto", load.built.choices["loader"].value):
            continue
        if name == "kernel" and load.built.device.type == "cpu":
            continue  # a CPU can only interpret the kernel
        try:
            other = build(replace(load.recipe, loader=name), load.data)
        except EnvironmentProblem as problem:
            log(f"{'loader ' + name:24} not available: {problem}")
            continue
        rate = loader_rate(other.train, other.device, seconds=seconds)
        log(f"{'loader ' + name:24} {rate}")
        yield Trial("loader", f"--loader {name}", rate.median)


def _cores() -> int:
    """The number of physical cores that this process may use."""
    physical = torch.cpu.get_capabilities().get("num_physical_cores") or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return min(physical, allowed)
