"""Images per second of one training step, with fasttrain's optimisations added one by one.

`source` is the peer: eager, float32, NCHW, reading the loss at every step. On a GPU the plain AMP
loop is a second peer. The providers take turns, one step each, so that a machine that slows down
slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import pytest
import torch

from benchmarks.conftest import DEVICE, batch, compared, wait
from benchmarks.peers import amp_loop, source_loop
from fasttrain.engine.build import AMP, set_backends
from fasttrain.engine.graphs import GraphedStep
from fasttrain.engine.step import Step
from fasttrain.machine import auto
from fasttrain.models.packed_conv import pack_convolutions
from fasttrain.models.resnet import ResNet18
from fasttrain.optim.sgd import sgd

ON_GPU = DEVICE.type == "cuda"
BATCHES = (128, 256, 512, 1024) if ON_GPU else (32, 128)
ROUNDS = 20 if ON_GPU else 5
PACKED = DEVICE.type == "cpu" and auto.cpu_multiplies_bf16()
AUTO = AMP[auto.amp("auto", DEVICE).value]


def source() -> Callable:
    model, optimizer = source_loop.network(DEVICE)
    return lambda images, labels: source_loop.step(model, optimizer, images.contiguous(), labels)


def plain_amp(dtype: torch.dtype = AUTO or torch.float16) -> Callable:
    model, optimizer = amp_loop.network(DEVICE)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype is torch.float16)
    return lambda images, labels: amp_loop.step(
        model, optimizer, scaler, images, labels, dtype=dtype
    )


def ours(
    *,
    amp: torch.dtype | None,
    packed: bool = False,
    compiled: bool = False,
    provider: str = "torch",
) -> Step:
    torch.manual_seed(0)
    model = ResNet18().to(DEVICE).to(memory_format=torch.channels_last).train()
    if packed:
        pack_convolutions(model)
    optimizer = sgd(model, lr=0.05, momentum=0.9, weight_decay=5e-4, provider=provider)
    return Step(model, optimizer, amp=amp, compile=compiled)


PROVIDERS: dict[str, Callable[[], Callable]] = {
    "source": source,
    **({"AMP loop": plain_amp} if ON_GPU else {}),
    "channels_last, fused SGD": lambda: ours(amp=None),
    "with AMP": lambda: ours(amp=AUTO),
    **({"side by side": lambda: ours(amp=AUTO, packed=True)} if PACKED else {}),
    **({"with AMP and graphs": lambda: GraphedStep(ours(amp=AUTO))} if ON_GPU else {}),
    "with AMP and compile": lambda: ours(amp=AUTO, compiled=True),
    **(
        {"with AMP, graphs and compile": lambda: GraphedStep(ours(amp=AUTO, compiled=True))}
        if ON_GPU
        else {}
    ),
}


@pytest.mark.parametrize("size", BATCHES)
def test_a_training_step(benchmark, size):
    set_backends(seed=0, deterministic=False)  # as in a run: cuDNN chooses by measuring
    images, labels = batch(size)
    steps = {name: make() for name, make in PROVIDERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}

    def take_turns() -> None:
        for name, step in steps.items():
            began = perf_counter()
            step(images, labels)
            wait()
            seconds[name].append(perf_counter() - began)

    take_turns()  # compiles and warms up
    first = {name: times.pop() for name, times in seconds.items()}
    benchmark.group = f"training step, batch {size}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    rates = compared(seconds, images=size)
    benchmark.extra_info["providers"] = {
        name: {**found, "first_step_seconds": first[name]} for name, found in rates.items()
    }
