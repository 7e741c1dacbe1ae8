"""Profiler traces of the real network's steps, eager and in a graph, with their summaries.

A table says which step is slow, a trace says why.
"""

from __future__ import annotations

import json
import shutil

from benchmarks.gpu import images, toy
from benchmarks.gpu.child import fasttrain
from benchmarks.gpu.record import Job, said

ASKED = ["--epochs", "2", "--lr", "0.05", "--train-limit", "12800", "--test-limit", "2000"]
WAYS = {"eager": ["--graphs", "off"], "graph": ["--graphs", "on"]}
EXPLICIT = ["--compile", "off", "--amp", "bf16", "--loader", "resident", "--optimizer", "torch"]


def measure(job: Job) -> None:
    """Keep the trace and the summary of a short run in each of WAYS; one may fail."""
    where = [] if job.toy else images.flags(job)
    for way, more in ({"eager": []} if job.toy else WAYS).items():
        run = job.scratch / f"trace-{way}"
        asked = ["--epochs", "1", *toy.FLAGS] if job.toy else [*ASKED, *EXPLICIT, *more]
        words = [*asked, *where, "--profile", "--overwrite", "--out", str(run)]
        try:
            fasttrain(job, words, log=job.out / "logs" / f"trace-{way}.txt")
            (file,) = (run / "tensorboard").glob("*.trace.json.gz")
        except Exception as error:
            job.record.note(f"trace, {way}: left out: {said(error)}")
            continue
        kept = job.out / f"trace-{way}.json.gz"
        shutil.copyfile(file, kept)
        found = json.loads((run / "profile.json").read_text(encoding="utf-8"))
        about = {"group": "trace", "provider": way, "n": 1, "file": kept.name}
        job.record.row({**about, "profile": found, "text": _text(run / "profile.txt")})
    if not job.record.found["rows"]:
        raise RuntimeError("no trace could be recorded: see the notes")


def _text(path: object) -> str:
    with open(str(path), encoding="utf-8") as file:
        return file.read()
