"""Profiler traces of the end of an epoch, eager, in a graph and compiled, with their summaries.

A table says which step is slow, a trace says why.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from benchmarks import bench_epoch as bench
from benchmarks.conftest import pixels
from benchmarks.gpu import toy
from benchmarks.gpu.record import Job, said
from fasttrain.data import cifar10
from fasttrain.engine.build import build
from fasttrain.engine.loop import fit
from fasttrain.profile.timeline import describe, read, summarise
from fasttrain.profile.trace import trace, window
from fasttrain.recipe.fields import Scalar
from fasttrain.recipe.recipe import make

EXPLICIT: dict[str, Scalar] = {"amp": "bf16", "loader": "resident", "optimizer": "torch"}
EXPLICIT |= {"compile": "off", "graphs": "off"}
WAYS: dict[str, dict[str, Scalar]] = {
    "eager": {},
    "graph": {"graphs": "on"},
    "compiled": {"compile": "on"},  # its code is in torch's cache, if the steps were measured
}
COMPILING = 20.0  # seconds that must be left for it, if it is not


def measure(job: Job) -> None:
    """Keep a trace and its summary for each of WAYS; one may fail."""
    for way, also in ({"eager": {}} if job.toy else WAYS).items():
        if job.left() < (COMPILING if "compile" in also else 0):
            job.record.note(f"trace, {way}: no time left")
            continue
        fields = toy.EXPLICIT if job.toy else EXPLICIT | also
        try:
            _record(job, way, fields)
        except Exception as error:
            job.record.note(f"trace, {way}: left out: {said(error)}")
    if not job.record.found["rows"]:
        raise RuntimeError("no trace could be recorded: see the notes")


def _record(job: Job, way: str, fields: Mapping[str, Scalar]) -> None:
    """Train two epochs and record the last steps of the second."""
    recipe = make({"dataset": "synthetic", "batch_size": bench.BATCH, "lr": 0.05, **fields})
    train, test = pixels(bench.STEPS * bench.BATCH), pixels(2 * bench.BATCH)
    built = build(recipe, cifar10.data(train, test))
    parts = built.step, built.train, built.test, bench.ConstantRate()
    fit(*parts, 1)  # what happens only once is not in the trace
    written: list[Path] = []
    skip, active = window(len(built.train), len(built.test))
    with trace(job.scratch, skip=skip, active=active, written=written.append) as hook:
        fit(*parts, 1, on_step=[hook])
    found = summarise(read(written[0]))
    if found is None:
        raise RuntimeError("no whole step was recorded")
    kept = job.out / f"trace-{way}.json.gz"
    shutil.copyfile(written[0], kept)
    text = describe(found, untraced=None, epoch=None)
    about = {"group": "trace", "provider": way, "n": 1, "file": kept.name, "text": text}
    job.record.row({**about, "profile": found.as_dict()})
