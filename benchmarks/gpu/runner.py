"""Runs the stages one after the other, each in a process of its own, within the time.

A CUDA error spoils the rest of its process, and a kernel may hang for ever: neither may end the
other stages, and each stage leaves a result that says how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.plan import Stage, log_path, missing, result_path
from benchmarks.gpu.record import RUNNING
from fasttrain.storage import atomic

ROOT = Path(__file__).parents[2]
GOOD = ("done", "left out", "no time left")  # the others make the command fail
WAKING = 4.0  # seconds of a stage before its first measurement, mostly the import of torch
Words = Callable[[Stage, float], Sequence[str]]
"""The command of a stage, which must have ended at an instant of time.monotonic()."""


class Ended(NamedTuple):
    """How the process of a stage ended."""

    status: int
    in_time: bool


def process(
    command: Sequence[str],
    file: Path,
    limit: float,
    *,
    grace: float,
    environment: Mapping[str, str],
) -> Ended:
    """Run a command for at most `limit` seconds; what it prints goes into `file`."""
    atomic.make_folder(file.parent)
    with open(file, "wb") as output:
        child = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return Ended(child.wait(limit - grace), True)
        except subprocess.TimeoutExpired:
            _send(child, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(grace)
        finally:
            _send(child, getattr(signal, "SIGKILL", signal.SIGTERM))  # and what it has started
            child.wait()
    return Ended(child.returncode, False)


def run(
    stages: Sequence[Stage],
    words: Words,
    *,
    out: Path,
    seconds: float,
    grace: float,
    environment: Mapping[str, str],
    log: Callable[[str], None],
    start: Callable[..., Ended] = process,
) -> list[dict[str, Any]]:
    """Run each stage for its share of the seconds that are left; return their results.

    A stage is asked to end `grace` before its share does, interrupted then, and killed at its end.
    """
    ends, results = time.monotonic() + seconds, []
    for number, stage in enumerate(stages):
        left = ends - time.monotonic()
        limit = left * stage.share / sum(each.share for each in stages[number:])
        log(f"{stage.name}: {stage.what}, at most {max(0.0, limit):.0f} s")
        began = time.monotonic()
        path = result_path(out, stage.name)
        lacking = missing(stage)
        if lacking:
            found = _not_run(stage, "left out", f"not installed: {', '.join(lacking)}")
        elif limit < 2 * grace + WAKING:
            found = _not_run(stage, "no time left", f"{max(0.0, left):.0f} s were left")
        else:
            command = words(stage, began + limit - 2 * grace)
            file = log_path(out, stage.name)
            ended = start(command, file, limit, grace=grace, environment=environment)
            found = settle(path, stage, ended, limit, file)
        found["seconds"] = time.monotonic() - began
        atomic.write_json(path, found)
        log("  " + described(found))
        results.append(found)
    return results


def settle(path: Path, stage: Stage, ended: Ended, limit: float, file: Path) -> dict[str, Any]:
    """The result of a stage whose process has ended, which need not have written any."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = _not_run(stage, RUNNING, None)
    if found["state"] != RUNNING:
        return found
    if not ended.in_time:
        return {**found, "state": "out of time", "why": f"stopped after its share, {limit:.0f} s"}
    how = f"exit status {ended.status}"
    if ended.status < 0:
        how = signal.Signals(-ended.status).name
    last = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return {**found, "state": "died", "why": ": ".join([how, *last])[:500]}


def described(found: dict[str, Any]) -> str:
    """How a stage ended, in one line."""
    line = f"{found['state']} after {found['seconds']:.0f} s"
    rows = f", {len(found['rows'])} rows" if found["rows"] else ""
    return f"{line}{rows}" + (f" ({found['why']})" if found["why"] else "")


def _not_run(stage: Stage, state: str, why: str | None) -> dict[str, Any]:
    return {"stage": stage.name, "state": state, "why": why, "rows": [], "notes": []}


def _send(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the process and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
