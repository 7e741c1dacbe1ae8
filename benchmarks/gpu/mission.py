"""The mission: 50 epochs of ResNet18 by the command that a person types, with report and all.

What the run says of itself is kept: its choices, its epochs, where its seconds went.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu import images, toy
from benchmarks.gpu.child import fasttrain
from benchmarks.gpu.record import Job

ASKED = ["--epochs", "50"]
REPORTING = 20.0  # seconds that explaining, the report and the end may take
CHOICE = re.compile(r"^  [a-z].*$", re.M)  # what a run prints of itself before it trains
MOST = 12


def measure(job: Job) -> None:
    """Train, keep the run directory without its checkpoints, and record what it says."""
    out = job.out / "mission"
    asked = ["--epochs", "2", *toy.FLAGS] if job.toy else [*ASKED, *images.flags(job)]
    limit = ["--max-time", f"{max(1.0, job.left() - (0 if job.toy else REPORTING)):.0f}"]
    job.record.put("command", f"python -m fasttrain {' '.join(ASKED)}")
    words = [*asked, *limit, "--out", str(out)]
    if (out / "recipe.json").exists():  # of an earlier measurement
        shutil.rmtree(out)
    try:
        done = fasttrain(job, words, log=job.out / "logs" / "mission-run.txt")
        job.record.put("process_seconds", done.seconds)
        job.record.put("choices", [line.strip() for line in CHOICE.findall(done.text)[:MOST]])
        if done.interrupted:
            job.record.note("interrupted at the end of its share of the time: no report")
    finally:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        _read(job, out)


def _read(job: Job, run: Path) -> None:
    """Record the epochs, in one row, and the summary of a run."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    epochs = [json.loads(line) for line in lines]
    if not epochs:
        job.record.note("no epoch was trained")
        return
    row: dict[str, Any] = {"group": "mission", "provider": "fasttrain", "n": len(epochs)}
    row["epoch_seconds"] = median(epoch["seconds"] for epoch in epochs)
    row["images_per_second"] = median(epoch["images_per_second"] for epoch in epochs)
    row["final_test_accuracy"] = epochs[-1]["test_accuracy"]
    job.record.row(row)
    summary = run / "summary.json"
    if summary.exists():
        job.record.put("summary", json.loads(summary.read_text(encoding="utf-8")))
    asked = 2 if job.toy else int(ASKED[1])
    if len(epochs) < asked:
        job.record.note(f"{len(epochs)} of {asked} epochs in its share of the time")
