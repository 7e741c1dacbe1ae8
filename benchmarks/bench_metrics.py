"""The cost of detecting numbers that are not finite, as a share of a training step.

`record_step` is a part of every step, and `record_weights` runs once an epoch. `norm` is the
rejected alternative, a norm of all gradients. They take turns with the step that they are compared
with. On a GPU alone they take mostly the time to launch and to wait, which within a step they do
not: there the shares are upper bounds.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch
from torch.nn.utils import get_total_norm

from benchmarks.bench_step import AUTO, ours
from benchmarks.conftest import DEVICE, batch, wait
from fasttrain.engine import metrics

BATCH, ROUNDS = 128, 12
LARGEST_SHARE = 0.002  # of a step on a CPU, the most that `record_step` may cost


def test_the_cost_of_detecting_nan(benchmark):
    step, (images, labels) = ours(amp=AUTO), batch(BATCH)
    gradients = [torch.randn_like(weight) for weight in step.model.parameters()]
    sums = metrics.zeros(DEVICE)
    actions = {
        "step": lambda: step(images, labels),
        "record_step": lambda: metrics.record_step(sums, step.lr),
        "norm": lambda: get_total_norm(gradients),
        "record_weights": lambda: metrics.record_weights(sums, step.model),
    }
    seconds: dict[str, list[float]] = {name: [] for name in actions}

    def take_turns() -> None:
        for name, action in actions.items():
            wait()
            began = perf_counter()
            action()
            wait()
            seconds[name].append(perf_counter() - began)

    take_turns()
    for times in seconds.values():
        times.clear()
    benchmark.group = f"detecting NaN, batch {BATCH}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    benchmark.extra_info["seconds"] = {name: median(times) for name, times in seconds.items()}
    benchmark.extra_info["share_of_a_step"] = {
        name: median(a / b for a, b in zip(seconds[name], seconds["step"], strict=True))
        for name in ("record_step", "norm")
    }
    if DEVICE.type == "cpu":
        assert benchmark.extra_info["share_of_a_step"]["record_step"] < LARGEST_SHARE
