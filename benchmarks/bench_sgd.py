"""GB/s of an optimizer step over the parameters of a ResNet18: ours, torch's, compiled.

Our kernel is kept only if it is faster than both others. A step counts as 20 bytes per parameter,
the least that it must move. The time includes the host's part of a step.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks.conftest import DEVICE, wait
from fasttrain.models.resnet import ResNet18
from fasttrain.optim.sgd import sgd

ON_GPU = DEVICE.type == "cuda"
STEPS = 20 if ON_GPU else 1  # per round: on a GPU enough to hide the final wait
NAMES = {"ours": "kernel"}  # of a provider, as --optimizer has it
PROVIDERS = (["ours"] if ON_GPU else []) + ["torch", "compile"]


def network() -> nn.Module:
    """A ResNet18 with gradients; on a CPU a tenth of its parameters, in four linear layers."""
    torch.manual_seed(0)
    model = ResNet18() if ON_GPU else nn.Sequential(*(nn.Linear(512, 512) for _ in range(4)))
    model = model.to(DEVICE).to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def stepper(provider: str, model: nn.Module) -> Callable[[], object]:
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    if provider != "compile":
        return sgd(model, **options, provider=NAMES.get(provider, provider)).step
    # Inductor fuses the foreach form into few kernels, but not the fused form.
    rate = torch.tensor(0.05, device=DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), **options | {"lr": rate}, foreach=True)
    return torch.compile(optimizer.step)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_update(benchmark, provider):
    model = network()
    step = stepper(provider, model)
    count = sum(parameter.numel() for parameter in model.parameters())

    def round_() -> None:
        for _ in range(STEPS):
            step()
        wait()

    benchmark.group = f"SGD, {count:,} parameters, {DEVICE.type}"
    benchmark.pedantic(round_, rounds=30, warmup_rounds=3)
    if benchmark.stats:
        seconds = benchmark.stats.stats.median / STEPS
        benchmark.extra_info["gigabytes_per_second"] = 20 * count / seconds / 1e9
        benchmark.extra_info["microseconds"] = seconds * 1e6
