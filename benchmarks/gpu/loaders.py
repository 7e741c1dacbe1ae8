"""The loaders alone, an epoch each, in turns: DALI, resident, the kernel and albumentations.

As benchmarks/bench_loaders.py measures them, but one that fails leaves the others their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import kernels
from benchmarks import bench_loaders as bench
from benchmarks.conftest import DEVICE, installed
from benchmarks.gpu.record import Job
from benchmarks.gpu.turns import Action, rates
from fasttrain.loaders.dali import available

PEER = "albumentations"


def measure(job: Job) -> None:
    """Record images/s of each loader that this machine has, and why it lacks the others."""
    makers: dict[str, Callable[[], Action]] = {
        name: partial(_reading, partial(bench.ours, kind, bench.EPOCH))
        for name, kind in bench.KINDS.items()
    }
    if installed(PEER):
        makers[PEER] = partial(_reading, partial(bench.albumentations, bench.PEERS_EPOCH))
    problems = {"dali": available(), "kernel": kernels.problem(DEVICE), PEER: "not installed"}
    for name, problem in problems.items():
        if name not in makers:
            job.record.note(f"loader {name}: left out: {problem or 'a CPU can only interpret it'}")
    peer = PEER if PEER in makers else "resident"
    found = rates(makers, job, rounds=bench.ROUNDS, peer=peer, what="loader")
    for name, row in found.items():
        group = f"loaders, an epoch, batch {bench.BATCH}, {DEVICE.type}"
        job.record.row({"group": group, "provider": name, **row})
    if not found:
        raise RuntimeError("no loader could be measured: see the notes")


def _reading(make: Callable) -> Action:
    return partial(bench.read, make())
