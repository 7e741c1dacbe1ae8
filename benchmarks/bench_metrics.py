"""What it costs to notice numbers that are not finite, as a share of a training step.

`watch` is what every step pays; `norm` is the alternative that was not taken, a norm of all
gradients; `weigh` is paid once an epoch. They take turns with the step that they are compared with.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch
from torch.nn.utils import get_total_norm

from benchmarks.bench_step import ours
from benchmarks.conftest import DEVICE, batch, wait
from fasttrain.engine import metrics

BATCH, ROUNDS = 128, 12
LARGEST_SHARE = 0.002  # of a step, that every step may pay


def test_what_noticing_costs(benchmark):
    step, (images, labels) = ours(amp=True), batch(BATCH)
    gradients = [torch.randn_like(weight) for weight in step.model.parameters()]
    sums = metrics.zeros(DEVICE)
    actions = {
        "step": lambda: step(images, labels),
        "watch": lambda: metrics.record_step(sums, step.lr),
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
    benchmark.group = f"noticing NaN, batch {BATCH}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    benchmark.extra_info["seconds"] = {name: median(times) for name, times in seconds.items()}
    benchmark.extra_info["share_of_a_step"] = {
        name: median(a / b for a, b in zip(seconds[name], seconds["step"], strict=True))
        for name in ("watch", "norm")
    }
    assert benchmark.extra_info["share_of_a_step"]["watch"] < LARGEST_SHARE
