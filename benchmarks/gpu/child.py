"""Commands that a stage runs, `python -m fasttrain` as a user would and pytest, within its time.

They are interrupted before the stage's own end, so that the stage can still read what they left.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.record import Job
from benchmarks.gpu.runner import ROOT

PATIENCE = 5.0  # seconds from the interruption to the end


class Finished(NamedTuple):
    """Exit status, seconds, whether it was interrupted, and what it printed."""

    status: int
    seconds: float
    interrupted: bool
    text: str


def python(job: Job, words: Sequence[str], *, log: Path) -> Finished:
    """Run `python` with `words`, at most as long as the stage may take; print into `log`."""
    began, interrupted = time.monotonic(), False
    with open(log, "wb") as output:
        child = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            child.wait(max(0.0, job.left() - PATIENCE))
        except subprocess.TimeoutExpired:
            interrupted = True
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
        finally:
            child.kill()
            child.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    print(text[-4000:], flush=True)
    return Finished(child.returncode, time.monotonic() - began, interrupted, text)


def fasttrain(job: Job, words: Sequence[str], *, log: Path) -> Finished:
    """Run `python -m fasttrain`; RuntimeError with its last line if it fails by itself."""
    done = python(job, ["-m", "fasttrain", *words], log=log)
    if done.status and not done.interrupted:
        last = (done.text.strip().splitlines() or ["it printed nothing"])[-1]
        raise RuntimeError(f"exit status {done.status}: {last}")
    return done
