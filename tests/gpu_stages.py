"""Stages of a rehearsal in forked processes, which need not import torch: 15 s instead of 40.

The run of the mission is tiny, too (see tiny_runs.py); the tests' stage has a pytest of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import processes

from benchmarks.gpu.child import Finished
from benchmarks.gpu.record import Job
from benchmarks.gpu.runner import Ended


def process(
    command: Sequence[str],
    file: Path,
    limit: float,
    *,
    grace: float,
    environment: Mapping[str, str],
) -> Ended:
    """Stand in for runner.process."""
    processes._ready()
    file.parent.mkdir(exist_ok=True)
    child = processes.CONTEXT.Process(target=_run, args=(json.loads(command[-1]), file))
    child.start()
    child.join(limit)
    in_time = child.exitcode is not None
    child.kill()
    child.join()
    return Ended(child.exitcode, in_time)


def _run(asked: dict[str, object], file: Path) -> None:
    processes._redirect(1, file)
    os.dup2(1, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels take seconds
    from benchmarks.gpu import mission, stage
    from fasttrain.machine import environment

    importlib.reload(environment)  # the fork server's describes nothing
    mission.fasttrain = _fasttrain
    sys.exit(stage.run(asked))


def _fasttrain(job: Job, words: Sequence[str], *, log: Path) -> Finished:
    """Stand in for child.fasttrain: the command line, in this process."""
    from fasttrain.cli import main as cli

    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(said):
        status = cli.main(words)
    log.write_text(said.getvalue())
    return Finished(status, time.monotonic() - began, False, said.getvalue())
