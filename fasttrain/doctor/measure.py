"""Measures a recipe on this machine, and the recipe with one thing changed.

Each change is built as a run would build it, so that what is timed is what a run would get.
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
from ..machine.auto import cpu_multiplies_bf16
from ..recipe.recipe import FIELDS, Recipe
from ..run.contention import halved, threads
from ..run.ledger import gemm_rate, training_flops
from .bottleneck import WORTH, Measured, Trial, together
from .probe import LOADED, Rate, busy_share, loader_rate, step_rate, training_rate

SMALLEST_BATCH, LARGEST_BATCH = 2, 4096  # that are tried; BatchNorm refuses a batch of one
Log = Callable[[str], None]


class Subject(NamedTuple):
    """What is measured: a recipe, its parts, one of its batches, and the images."""

    recipe: Recipe
    built: Built
    batch: Batch
    data: Data


def subject(recipe: Recipe, device: torch.device, data: Data, *, seconds: float) -> Subject:
    """The recipe without a compiler that was not asked for; on a slow CPU in a smaller batch.

    A step then takes about a tenth of `seconds`; a CPU's images per second hardly depend on it.
    """
    if recipe.compile == "auto":
        recipe = replace(recipe, compile="off")
    if device.type == "cpu" and recipe.batch_size > SMALLEST_BATCH:
        pilot = _build(replace(recipe, batch_size=SMALLEST_BATCH, compile="off"), data)
        speed = step_rate(pilot.built.step, pilot.batch, seconds=0).median
        fits = 2 ** int(log2(max(SMALLEST_BATCH, speed * seconds / 10)))
        recipe = replace(recipe, batch_size=min(recipe.batch_size, fits))
    return _build(recipe, data)


def measure(of: Subject, *, seconds: float, log: Log) -> Measured:
    """Time the loader, the step, both, and what else could have been chosen; a line for each."""
    built, batch = of.built, of.batch
    step = step_rate(built.step, batch, seconds=0.25 * seconds)
    log(f"{'step':24} {step}")
    loader = loader_rate(built.train, built.device, seconds=0.1 * seconds)
    log(f"{'loader ' + built.choices['loader'].value:24} {loader}")
    both, waiting = _training(of, loader, step, seconds, log)
    busy = None
    if built.device.type == "cuda":
        busy = busy_share(built.step, batch, step_seconds=len(batch.labels) / step.median)
        log(f"{'the GPU works':24} {busy:10.0%} of a step")
    return Measured(
        batch_size=of.recipe.batch_size,
        loader=loader.median,
        step=step.median,
        both=both,
        wait=waiting,
        mfu=_mfu(of, step, min(1.0, 0.1 * seconds), log),
        spread=(step.high - step.low) / step.median,
        busy=busy,
        compiled=built.choices["compile"].value == "on",
        steps=list(_steps(of, 0.1 * seconds, log)),
        loaders=list(_loaders(of, 0.1 * seconds, log)),
    )


def changes(recipe: Recipe, built: Built) -> Iterator[tuple[str, str, Recipe]]:
    """(kind, flags, recipe) of what else the step could be; compiled, only what needs no minute."""
    if recipe.compile == "on":
        yield "compile", "--compile off", replace(recipe, compile="off")
        return
    for amp in _precisions(built.device):
        if amp != built.choices["amp"].value:
            yield "precision", f"--amp {amp}", replace(recipe, amp=amp)
    if built.choices["graphs"].why.startswith("not measured"):
        yield "graphs", "--graphs on", replace(recipe, graphs="on")
    larger = 4 * recipe.batch_size
    if built.device.type == "cuda" and larger <= LARGEST_BATCH:
        yield "batch", f"--batch-size {larger}", replace(recipe, batch_size=larger)


def _precisions(device: torch.device) -> tuple[str, ...]:
    """What the device does not have to emulate."""
    if device.type == "cpu":
        return ("off", "bf16") if cpu_multiplies_bf16() else ("off",)
    capability = torch.cuda.get_device_capability(device)
    return ("off", "fp16", "bf16") if capability >= (8, 0) else ("off", "fp16")


def _build(recipe: Recipe, data: Data) -> Subject:
    built = build(recipe, data)
    return Subject(recipe, built, next(iter(built.train)), data)


def _training(
    of: Subject, loader: Rate, step: Rate, seconds: float, log: Log
) -> tuple[float, float]:
    """Images per second of loader and step together, and the share that waits for data."""
    if step.median * 0.1 * seconds < LOADED:
        # A loader makes so many images at a time that few steps would not show what they cost.
        both = together(loader.median, step.median)
        waiting = 1 - both / step.median
        log(f"{'both':24} {both:10,.1f} images/s  (computed), {waiting:.2%} waiting for data")
        return both, waiting
    rate, waiting = training_rate(of.built.step, of.built.train, seconds=0.2 * seconds)
    log(f"{'both':24} {rate}, {waiting:.2%} waiting for data")
    return rate.median, waiting


def _mfu(of: Subject, step: Rate, seconds: float, log: Log) -> float:
    dtype = of.built.step.amp or torch.float32
    peak = gemm_rate(of.built.device, dtype, seconds=seconds)
    used = step.median * training_flops(of.built.step.model) / peak
    name = str(dtype).removeprefix("torch.")
    log(f"{'matrix product, ' + name:24} {peak / 1e9:10,.0f} GFLOP/s; the step uses {used:.0%}")
    return used


def _steps(of: Subject, seconds: float, log: Log) -> Iterator[Trial]:
    for kind, flags, recipe in changes(of.recipe, of.built):
        other = _build(replace(recipe, loader="resident"), of.data)
        rate = step_rate(other.built.step, other.batch, seconds=seconds)
        log(f"{'step, ' + flags:24} {rate}")
        yield Trial(kind, flags, rate.median)
    if of.built.device.type == "cpu":
        yield from _numbers_of_threads(of, seconds, log)


def _numbers_of_threads(of: Subject, seconds: float, log: Log) -> Iterator[Trial]:
    """All cores, if that is another number; then half of the threads, as often as it gains.

    On cores that other programs use too, the threads of each small operator wait for the one that
    has no core: with two a step took up to sixteen times as long as with one.
    """
    cores, used = _cores(), torch.get_num_threads()

    def rate(count: int) -> float:
        with threads(count):
            found = step_rate(of.built.step, of.batch, seconds=seconds)
        log(f"{f'step, threads: {count}':24} {found}")
        return found.median

    found = {} if cores == used else {cores: rate(cores)}
    if used > 1:
        now = rate(used)  # again, since other programs come and go
        found |= halved(rate, used, now, worth=WORTH)
    for count, speed in found.items():
        yield Trial("threads", f"OMP_NUM_THREADS={count} instead of {used}", speed)


def _loaders(of: Subject, seconds: float, log: Log) -> Iterator[Trial]:
    for name in FIELDS["loader"].metadata["choices"]:
        if name in ("auto", of.built.choices["loader"].value):
            continue
        if name == "kernel" and of.built.device.type == "cpu":
            continue  # a CPU could only interpret it
        try:
            other = build(replace(of.recipe, loader=name), of.data)
        except EnvironmentProblem as problem:
            log(f"{'loader ' + name:24} not here: {problem}")
            continue
        rate = loader_rate(other.train, other.device, seconds=seconds)
        log(f"{'loader ' + name:24} {rate}")
        yield Trial("loader", f"--loader {name}", rate.median)


def _cores() -> int:
    """Physical cores that this process may use."""
    physical = torch.cpu.get_capabilities().get("num_physical_cores") or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return min(physical, allowed)
