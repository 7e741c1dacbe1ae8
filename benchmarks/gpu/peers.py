"""Whole epochs, loader and loop: the source experiment, the plain AMP loop, fasttrain.

As benchmarks/bench_epoch.py measures them; nothing of fasttrain is left to `auto`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import bench_epoch as bench
from benchmarks.conftest import DEVICE, installed, pixels
from benchmarks.gpu import toy
from benchmarks.gpu.record import Job
from benchmarks.gpu.turns import Action, rates

EXPLICIT = {"amp": "bf16", "loader": "resident", "optimizer": "torch"}


def measure(job: Job) -> None:
    """Record images/s of an epoch by each, in turns."""
    split = pixels(bench.STEPS * bench.BATCH)
    makers: dict[str, Callable[[], bench.Run]] = {}
    if installed("albumentations"):
        makers["source"] = partial(bench.source, split)
    else:
        job.record.note("source: left out: albumentations is not installed")
    makers["AMP loop"] = partial(bench.plain_amp, split)
    fields = toy.EXPLICIT if job.toy else EXPLICIT
    makers["fasttrain"] = partial(bench.ours, split, [], also=fields)
    if DEVICE.type == "cuda":
        graphed = fields | {"graphs": "on"}
        makers["fasttrain, graphs"] = partial(bench.ours, split, [], also=graphed)
    actions = {name: partial(_epoch, make) for name, make in makers.items()}
    peer = next(iter(actions))
    found = rates(actions, job, rounds=1 if job.toy else bench.ROUNDS, peer=peer, what="epoch")
    group = f"epoch of {bench.STEPS} steps, batch {bench.BATCH}, {DEVICE.type}"
    for name, row in found.items():
        job.record.row({"group": group, "provider": name, **row})
    if not found:
        raise RuntimeError("no loop could be measured: see the notes")


def _epoch(make: Callable[[], bench.Run]) -> Action:
    run = make()

    def epoch() -> int:
        run()
        return bench.STEPS * bench.BATCH

    return epoch
