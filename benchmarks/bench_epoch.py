"""A full training epoch with loader and loop, compared with the source experiment.

On a GPU it is also compared with the plain AMP loop, and measured with a step in a CUDA graph. They
take turns. What is not installed is left out: without albumentations the source experiment. The
data wait is measured by fasttrain's own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from time import perf_counter
from types import MappingProxyType

import torch

from benchmarks.conftest import DEVICE, compared, installed, pixels
from benchmarks.peers import amp_loop, source_loop
from fasttrain.data import Split, cifar10
from fasttrain.engine.build import AMP, build
from fasttrain.engine.loop import fit
from fasttrain.engine.state import Epoch
from fasttrain.machine import auto
from fasttrain.recipe.fields import Scalar
from fasttrain.recipe.recipe import make

BATCH = 128
ON_GPU = DEVICE.type == "cuda"
STEPS = 100 if ON_GPU else 5
ROUNDS = 5 if ON_GPU else 3
Run = Callable[[], float]
"""Trains an epoch; returns its seconds."""


def test_an_epoch_with_its_loader(benchmark):
    split = pixels(STEPS * BATCH)
    rows: list[Epoch] = []
    runs: dict[str, Run] = {"source": source(split)} if installed("albumentations") else {}
    runs |= {"AMP loop": plain_amp(split)} if ON_GPU else {}
    runs["fasttrain"] = ours(split, rows)
    runs |= {"fasttrain, graphs": ours(split, [], also={"graphs": "on"})} if ON_GPU else {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}

    def take_turns() -> None:
        for name, epoch in runs.items():
            seconds[name].append(epoch())

    take_turns()
    for times in seconds.values():
        times.clear()
    benchmark.group = f"epoch of {STEPS} steps, batch {BATCH}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    peer = next(iter(runs))
    benchmark.extra_info["providers"] = compared(seconds, images=STEPS * BATCH, peer=peer)
    shares = [row.data_wait_seconds / row.seconds for row in rows[1:]]
    benchmark.extra_info["data_wait_share"] = median(shares)


def ours(
    split: Split, rows: list[Epoch], *, also: Mapping[str, Scalar] = MappingProxyType({})
) -> Run:
    """fasttrain's loop, with the Recipe's fields `also`; each epoch's row is added to `rows`."""
    options = {"batch_size": BATCH, "lr": 0.05, "compile": "off", "graphs": "off", **also}
    recipe = make({"dataset": "synthetic", **options})
    built = build(recipe, cifar10.data(split, pixels(BATCH)))

    def epoch() -> float:
        rows.append(fit(built.step, built.train, built.test, ConstantRate(), 1)[0])
        return rows[-1].seconds

    return epoch


def source(split: Split) -> Run:
    """The source experiment's loop."""
    model, optimizer = source_loop.network(DEVICE)
    batches = source_loop.loader(split, batch_size=BATCH)
    return timed(partial(source_loop.epoch, model, optimizer, batches, DEVICE))


def plain_amp(split: Split) -> Run:
    """The AMP loop, which reads its sums at the end."""
    model, optimizer = amp_loop.network(DEVICE)
    batches = amp_loop.loader(split, DEVICE, batch_size=BATCH)
    dtype = AMP[auto.amp("auto", DEVICE).value] or torch.float16
    return timed(partial(amp_loop.epoch, model, optimizer, batches, dtype=dtype))


def timed(epoch: Callable[[], object]) -> Run:
    def run() -> float:
        began = perf_counter()
        epoch()
        return perf_counter() - began

    return run


class ConstantRate:
    """A schedule that never changes the rate."""

    def after_step(self) -> None: ...

    def after_epoch(self, test_accuracy: float) -> None: ...
