"""Sizes and stand-ins with which a CPU rehearses every stage in seconds.

A rehearsal shows that each stage runs to its end and writes its result; its numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fasttrain.recipe.fields import Scalar, flag

EXPLICIT: dict[str, Scalar] = {"loader": "resident", "amp": "off", "compile": "off"}
EXPLICIT |= {"graphs": "off", "device": "cpu", "model": "sprint", "widths": "8,8,8"}
FIELDS: dict[str, Scalar] = {**EXPLICIT, "dataset": "synthetic", "train_limit": 64}
FIELDS |= {"test_limit": 32, "batch_size": 16, "lr": 0.05}
FLAGS = [word for name, value in FIELDS.items() for word in (flag(name), str(value))]
SPRINT: dict[str, Scalar] = {**FIELDS, "epochs": 1}


def shrink(stage: str) -> None:
    """Make what a stage measures in this process tiny, and torch.compile compile nothing."""
    torch.compile = lambda function, **options: function  # type: ignore[assignment]
    if stage == "sprint":
        from fasttrain.run import ledger

        ledger.gemm_rate = lambda device, kind, seconds=1.0: 1e11  # type: ignore[assignment, misc]
    if stage == "loaders":
        from benchmarks import bench_loaders

        bench_loaders.EPOCH = bench_loaders.PEERS_EPOCH = 2 * bench_loaders.BATCH
        bench_loaders.ROUNDS = 1
    if stage in ("steps", "peers", "trace"):
        from benchmarks import bench_epoch, bench_sgd, bench_step
        from benchmarks.peers import amp_loop, source_loop

        for home in (bench_sgd, bench_step, amp_loop, source_loop):
            home.ResNet18 = network  # type: ignore[attr-defined]
        bench_epoch.STEPS, bench_epoch.BATCH = 2, 16


def network() -> nn.Module:
    """A sprint's network of few channels."""
    from fasttrain.models.sprint import Sprint

    return Sprint((8, 8, 8))


def capture(
    function: Callable[[], tuple[Tensor, ...]],
) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """Stand in for a CUDA graph: a replay calls the function again and copies its outputs."""
    outputs = function()

    def replay() -> None:
        for kept, made in zip(outputs, function(), strict=True):
            kept.copy_(made)

    return replay, outputs
