"""Seconds of the learning-rate range test, compared with the same number of plain steps.

The difference is the copy of the state for restoring it, and reading the losses.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import pytest

from benchmarks.conftest import DEVICE, pixels, wait
from fasttrain import Recipe
from fasttrain.data import cifar10
from fasttrain.engine.build import build
from fasttrain.engine.lr_finder import find_lr

STEPS, BATCH = (100, 128) if DEVICE.type == "cuda" else (25, 32)
ROUNDS = 3


@pytest.mark.parametrize("graphs", ["off", "on"] if DEVICE.type == "cuda" else ["off"])
def test_a_range_test(benchmark, graphs):
    options = {"batch_size": BATCH, "lr": 0.01, "compile": "off", "graphs": graphs}
    recipe = Recipe(dataset="synthetic", **options)
    built = build(recipe, cifar10.data(pixels(STEPS * BATCH), pixels(BATCH)))
    seconds: dict[str, list[float]] = {"find_lr": [], "bare steps": []}

    def take_turns() -> None:
        began = perf_counter()
        find_lr(built.step, built.train, low=1e-4, steps=STEPS, diverge=1e9)
        seconds["find_lr"].append(perf_counter() - began)
        built.step.lr = 0.001
        began = perf_counter()
        for images, labels in built.train:
            built.step(images, labels)
        wait()
        seconds["bare steps"].append(perf_counter() - began)

    take_turns()  # captures, and warms up
    for times in seconds.values():
        times.clear()
    of = ", in a graph" if graphs == "on" else ""
    benchmark.group = f"range test of {STEPS} steps, batch {BATCH}{of}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    benchmark.extra_info["providers"] = {
        name: {
            "n": len(times),
            "median_seconds": median(times),
            "times_bare steps": median(seconds["bare steps"]) / median(times),
        }
        for name, times in seconds.items()
    }
