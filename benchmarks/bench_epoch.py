"""A full training epoch with loader and loop, compared with the source experiment.

On a GPU it is also compared with the plain AMP loop. They take turns. The data wait is measured by
fasttrain's own loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import torch

from benchmarks.conftest import DEVICE, compared, pixels
from benchmarks.peers import amp_loop, source_loop
from fasttrain import Recipe
from fasttrain.data import Split, cifar10
from fasttrain.engine.build import AMP, build
from fasttrain.engine.loop import fit

BATCH = 128
STEPS = 100 if DEVICE.type == "cuda" else 5
ROUNDS = 5 if DEVICE.type == "cuda" else 3


def test_an_epoch_with_its_loader(benchmark):
    split = pixels(STEPS * BATCH)
    recipe = Recipe(dataset="synthetic", batch_size=BATCH, lr=0.05, compile="off")
    built = build(recipe, cifar10.data(split, pixels(BATCH)))
    model, optimizer = source_loop.network(DEVICE)
    batches = source_loop.loader(split, batch_size=BATCH)
    rows, seconds = [], {"source": [], "fasttrain": []}
    second = plain_amp(split, built.choices["amp"].value) if DEVICE.type == "cuda" else None

    def take_turns() -> None:
        began = perf_counter()
        source_loop.epoch(model, optimizer, batches, DEVICE)
        seconds["source"].append(perf_counter() - began)
        if second:
            began = perf_counter()
            second()
            seconds.setdefault("AMP loop", []).append(perf_counter() - began)
        rows.append(fit(built.step, built.train, built.test, ConstantRate(), 1)[0])
        seconds["fasttrain"].append(rows[-1].seconds)

    take_turns()
    for times in seconds.values():
        times.clear()
    benchmark.group = f"epoch of {STEPS} steps, batch {BATCH}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    benchmark.extra_info["providers"] = compared(seconds, images=STEPS * BATCH)
    shares = [row.data_wait_seconds / row.seconds for row in rows[1:]]
    benchmark.extra_info["data_wait_share"] = median(shares)


def plain_amp(split: Split, amp: str) -> Callable[[], object]:
    """Make a function that runs an epoch of the AMP loop, which reads its sums at the end."""
    model, optimizer = amp_loop.network(DEVICE)
    batches = amp_loop.loader(split, DEVICE, batch_size=BATCH)
    dtype = AMP[amp] or torch.float16
    return partial(amp_loop.epoch, model, optimizer, batches, dtype=dtype)


class ConstantRate:
    """A schedule that never changes the rate."""

    def after_step(self) -> None: ...

    def after_epoch(self, test_accuracy: float) -> None: ...
