"""Command lines in child processes, forked from one that has imported torch: 50 ms instead of 3 s.

Each runs `python -m fasttrain` with a tiny network. A phase of the run can be made to report its
start and to last longer, so that a test knows when to act.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

CONTEXT = multiprocessing.get_context("forkserver")
HERE = Path(__file__).parent
LASTS = 0.4  # seconds by which a reported phase is prolonged


@lru_cache
def _ready() -> None:
    """Start the fork server; that of Python 3.11 finds `warm` only through PYTHONPATH."""
    CONTEXT.set_forkserver_preload(["warm"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HERE.parent, HERE)))
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


class Ended(NamedTuple):
    """The result of a process: exit status, output, and seconds since the last signal or start."""

    status: int
    out: str
    err: str
    seconds: float


class Child:
    """A command line in a process; its output goes to `log`, or to the handle `stdout`."""

    def __init__(
        self,
        log: Path,
        arguments: list[str],
        *,
        phase: str = "",
        limit: int | None = None,
        stdout: int | None = None,
    ) -> None:
        self.log, self.at = log, log.with_suffix(".phase")
        self.at.unlink(missing_ok=True)
        _ready()
        duplicate = None if stdout is None else multiprocessing.reduction.DupFd(stdout)
        self.process = CONTEXT.Process(
            target=_run, args=(log, arguments, phase, self.at, limit, duplicate), daemon=True
        )
        self.process.start()
        self.acted = time.monotonic()

    def reached(self) -> Child:
        """Wait until the phase has begun."""
        until = time.monotonic() + 60
        while not self.at.exists():
            assert self.process.is_alive(), f"it ended before: {self.ended()}"
            assert time.monotonic() < until
            time.sleep(0.002)
        return self

    def send(self, number: int) -> Child:
        os.kill(self.process.pid, number)
        self.acted = time.monotonic()
        return self

    def ended(self) -> Ended:
        self.process.join(60)
        seconds = time.monotonic() - self.acted
        assert self.process.exitcode is not None, "it goes on for a minute"
        files = [self.log.with_suffix(end) for end in (".out", ".err")]
        out, err = (file.read_text() if file.exists() else "" for file in files)
        return Ended(self.process.exitcode, out, err, seconds)


def _run(
    log: Path, arguments: list[str], phase: str, at: Path, limit: int | None, stdout: Any
) -> None:
    assert "warm" in sys.modules, "a run of the real size is not what was asked for"
    from fasttrain import __main__

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    out = log.with_suffix(".out")
    _redirect(1, out) if stdout is None else os.dup2(stdout.detach(), 1)
    _redirect(2, log.with_suffix(".err"))
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    if phase:
        announce(phase, at)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["fasttrain", *arguments]
    __main__.main()


def _redirect(number: int, path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(handle, number)
    os.close(handle)


def announce(phase: str, at: Path) -> None:
    """Make a phase of the next run touch `at` when it begins, and take LASTS longer."""
    from fasttrain.engine import evaluation, step
    from fasttrain.parallel import signals
    from fasttrain.predict import classifier
    from fasttrain.run import find_lr, finish, train, tuned
    from fasttrain.storage import atomic

    homes = {
        "data": (train, "splits"),
        "tune": (tuned, "tune"),
        "lr finder": (find_lr, "find_lr"),
        "compile": (train, "_warm_up"),
        "epoch": (step.Step, "__call__"),
        "eval": (evaluation, "measure"),
        "save": (atomic, "write_atomically"),
        "summary": (finish, "write_summary"),
        "analysis": (finish, "explain_run"),
        "predict": (classifier.Classifier, "probabilities"),
        "end": (signals, "ignore"),
    }
    home, name = homes[phase]
    real = getattr(home, name)

    def slow(*args: Any, **options: Any) -> Any:
        if not at.exists() and (phase != "save" or args[0].name == "last.pt"):
            at.touch()
            time.sleep(LASTS)
        return real(*args, **options)

    setattr(home, name, slow)
    if phase == "compile":
        import torch

        torch.compile = lambda function, **options: function  # type: ignore[assignment]


def flags(out: Path, **changes: Any) -> list[str]:
    """Return the command line that starts or resumes a small run in `out`."""
    from tiny_runs import SMALL

    given = {**SMALL, **changes}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return [*words, "--resume", "--out", str(out)]


def one_line(text: str) -> str:
    """Check that `text` is an error of one line, without a traceback; return it."""
    assert re.fullmatch(r"fasttrain: error: [^\n]+\n", text), text
    return text.strip()
