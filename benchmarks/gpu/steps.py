"""The table of training steps: batches, precisions, eager, one graph, compiled, and both.

The rows that say most come first, since compiling eight times may take longer than there is. Each
is compared with what the GPU reaches in a product of two 8192 x 8192 matrices in bf16.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks import bench_sgd, bench_step
from benchmarks.conftest import DEVICE, batch
from benchmarks.gpu import toy
from benchmarks.gpu.record import Job
from benchmarks.gpu.turns import Action, rates
from fasttrain.engine.build import AMP, set_backends
from fasttrain.engine.graphs import GraphedStep
from fasttrain.engine.step import Step
from fasttrain.models.flops import training_flops
from fasttrain.run.ledger import gemm_rate

PEERS, PLAIN = ("source", "AMP loop"), ("eager", "graph")
UPDATES = ("eager, kernel SGD", "graph, kernel SGD", "eager, apex FusedSGD")
COMPILED = ("compiled", "both")
# What is compiled or runs our own kernels stands apart and later: it may take the rest down.
GROUPS: tuple[tuple[int, str, tuple[str, ...]], ...] = (
    *((size, "bf16", (*PEERS, *PLAIN)) for size in (128, 512)),
    (128, "bf16", COMPILED),
    *((size, "fp16", PLAIN) for size in (128, 512)),
    *((size, "bf16", (*PEERS, *PLAIN)) for size in (256, 1024)),
    *((size, "fp16", PLAIN) for size in (256, 1024)),
    (512, "bf16", COMPILED),
    (128, "bf16", UPDATES),
    *((size, "bf16", COMPILED) for size in (256, 1024)),
    *((size, "fp16", COMPILED) for size in (128, 512, 256, 1024)),
)
REPEAT, ROUNDS = 10, 12  # steps between two waits for the GPU, and turns
COMPILING = 30.0  # seconds that must be left for a group that compiles
SMALL = ((4, "bf16", (*PEERS, *PLAIN)), (4, "bf16", (*UPDATES, *COMPILED)), (2, "fp16", PLAIN))


def measure(job: Job) -> None:
    """Record each group of rows, and the updates of the weights alone, while there is time."""
    set_backends(seed=0, deterministic=False)  # as in a run: cuDNN chooses by measuring
    product = gemm_rate(DEVICE, torch.bfloat16, seconds=0.02 if job.toy else 1.0)
    flops = training_flops(bench_step.ResNet18())
    job.record.put("product_flops", product)
    job.record.put("training_flops", flops)
    sources: dict[int, float] = {}
    for size, amp, ways in SMALL if job.toy else GROUPS:
        if UPDATES[0] in ways:
            _updates(job)
        if job.left() < (COMPILING if ways is COMPILED and not job.toy else 0):
            job.record.note(f"{amp}, {size}, {', '.join(ways)}: no time left")
            continue
        for name, row in _group(job, size, amp, ways).items():
            rate = row["images_per_second"]
            if name == "source":
                sources[size] = rate
            ratio = {"times_source": rate / sources[size]} if size in sources else {}
            group = f"training step, batch {size}, {DEVICE.type}"
            named = name if name in PEERS else f"{amp}, {name}"
            about = {"group": group, "provider": named, "batch": size, "amp": amp, "way": name}
            about |= {"median_seconds": size / rate, "share_of_product": rate * flops / product}
            job.record.row({**about, **row, **ratio})
    if not any("way" in row for row in job.record.found["rows"]):
        raise RuntimeError("no step could be measured: see the notes")


def _group(job: Job, size: int, amp: str, ways: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The rates of some ways to compute the same step, in turns, without their ratios."""
    if not job.toy:
        torch._dynamo.reset()  # or torch compiles no more after eight steps of one process
        gc.collect()
        torch.cuda.empty_cache()  # of the graphs before
    images, labels = batch(size)
    repeat = 1 if job.toy else REPEAT
    kept: dict[str, Step] = {}  # the graph of the compiled step takes what was compiled

    def action(way: str) -> Action:
        step = _step(way, amp, kept, toy.capture if job.toy else None)

        def steps() -> int:
            for _ in range(repeat):
                step(images, labels)
            return repeat * size

        return steps

    makers = {way: partial(action, way) for way in ways}
    found = rates(makers, job, rounds=2 if job.toy else ROUNDS, peer="", what=f"{amp}, {size}")
    return {
        name: {key: value for key, value in row.items() if not key.startswith("times_")}
        for name, row in found.items()
    }


def _step(way: str, amp: str, kept: dict[str, Step], capture: Callable | None) -> Callable:
    """A training step, computed in one of the ways of GROUPS."""
    if way == "source":
        return bench_step.source()
    if way == "AMP loop":
        return bench_step.plain_amp(AMP[amp])
    provider = next((name for name in ("kernel", "apex") if name in way), "torch")
    make = partial(bench_step.ours, amp=AMP[amp], provider=provider)
    if way in COMPILED:
        if "compiled" not in kept:
            kept["compiled"] = make(compiled=True)
        return GraphedStep(kept["compiled"], capture) if way == "both" else kept["compiled"]
    return GraphedStep(make(), capture) if way.startswith("graph") else make()


def _updates(job: Job) -> None:
    """The update of the weights alone: torch's fused SGD, our kernel, apex's FusedSGD."""
    model = bench_sgd.network()
    count = sum(parameter.numel() for parameter in model.parameters())

    def action(provider: str) -> Action:
        update = bench_sgd.stepper(provider, model)

        def updates() -> int:
            for _ in range(bench_sgd.STEPS):
                update()
            return bench_sgd.STEPS

        return updates

    makers: Mapping[str, Callable[[], Action]] = {
        name: partial(action, name) for name in ("torch", "ours", "apex")
    }
    for name, row in rates(makers, job, rounds=10, peer="torch", what="update").items():
        rate = row["images_per_second"]  # updates
        made = {"group": f"SGD, {count:,} parameters, {DEVICE.type}", "provider": name}
        made |= {"n": row["n"], "gigabytes_per_second": 20 * count * rate / 1e9}
        job.record.row({**made, "median_seconds": 1 / rate})
