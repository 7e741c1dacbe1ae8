"""Measures DDP's all-reduce of ResNet18's gradients, and the draw of an epoch's augmentation.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.allreduce

These are the inputs of docs/scaling.md that a machine without a GPU can measure.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch
import torch.distributed as dist
from torch.nn import functional as F

from fasttrain.loaders import draws
from fasttrain.models.resnet import ResNet18
from fasttrain.parallel.distributed import joined

ROUNDS = 10


def main() -> None:
    with joined(device="cpu") as group:
        if group.world == 1:
            raise SystemExit("start it with torchrun: it measures communication between processes")
        model = ResNet18().to(memory_format=torch.channels_last)
        wrapped = group.wrap(model)
        for _ in range(3):  # DDP rebuilds the buckets after the first backward
            F.cross_entropy(wrapped(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1])).backward()
        buckets = wrapped._get_ddp_logging_data()["rebuilt_bucket_sizes"]
        gradients = torch.zeros(sum(p.numel() for p in model.parameters()))
        flag = torch.zeros(1)
        lines = {
            f"all-reduce of {gradients.nbytes / 1e6:.1f} MB": timed(dist.all_reduce, gradients),
            "all-reduce of one number": timed(dist.all_reduce, flag),
            "an epoch's draw": timed(lambda _: draws.draw(1, seed=0, count=50_000), None),
        }
        if group.first:
            print(f"{group.world} processes over gloo; DDP's buckets in bytes: {buckets}")
            for name, seconds in lines.items():
                print(f"{name}: {1000 * seconds:.2f} ms (median of {ROUNDS})")


def timed(action, argument) -> float:
    """The median seconds of a call."""
    found = []
    for _ in range(ROUNDS):
        began = perf_counter()
        action(argument)
        found.append(perf_counter() - began)
    return median(found)


if __name__ == "__main__":
    main()
