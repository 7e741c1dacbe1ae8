"""Several ranks of one training, forked as in `processes`: gloo on the loopback, a tiny network.

A rank can have faults: KIND@PLACE, or KIND@PLACE:N for the N-th time that it reaches PLACE,
separated by commas.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ports
import processes
import torch
from processes import CONTEXT, Ended

from fasttrain.errors import DataError


def _raise(error: BaseException) -> None:
    raise error


def _compute_for(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


FAULTS: dict[str, Callable[[], Any]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(1),
    "exception": lambda: _raise(IndexError("a bug of ours")),
    "hang": lambda: time.sleep(3600),
    "loop": lambda: _compute_for(3600),
    "slow": lambda: _compute_for(1.6),
    "wait": lambda: time.sleep(1.6),
    "long": lambda: time.sleep(5),  # longer than `hurry` lets a collective wait
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "data error": lambda: _raise(DataError("train_images: damaged. Fetch them again.")),
    "full disk": lambda: _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
}
SPOILING = ("NaN images", "NaN gradient")  # in the input of a step, or in its result
DEATHS = ("SIGKILL", "SIGSEGV", "exit", "exception", "hang")


class Ranks:
    """The command line in `world` processes on this machine, with the faults of some ranks.

    Unless `patient`, deaths are detected within seconds. `plain` turns dropout off for
    comparisons, because its random numbers differ between processes.
    """

    def __init__(
        self,
        log: Path,
        arguments: list[str],
        *,
        world: int = 2,
        faults: dict[int, str] | None = None,
        only: int | None = None,
        port: int | None = None,
        patient: bool = False,
        plain: bool = False,
        compiled: bool = False,
    ) -> None:
        processes._ready()
        self.reserved = ports.reserved()
        port = port or self.reserved.getsockname()[1]
        self.began = time.monotonic()
        self.processes, self.logs = [], []
        for rank in range(world) if only is None else [only]:
            path = log.with_name(f"{log.name}-{rank}")
            here = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank}
            here |= {"LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            fault = (faults or {}).get(rank, "")
            process = CONTEXT.Process(
                target=_run,
                args=(path, arguments, here, fault, patient, plain, compiled),
                daemon=True,
            )
            process.start()
            self.processes.append(process)
            self.logs.append(path)

    def ended(self, *, within: float = 60.0) -> list[Ended]:
        """Return the result of each rank; all must end in time."""
        found = []
        for process, log in zip(self.processes, self.logs, strict=True):
            process.join(max(0.0, self.began + within - time.monotonic()))
            seconds = time.monotonic() - self.began
            goes_on = process.exitcode is None
            if goes_on:
                process.kill()
            out, err = (log.with_suffix(end).read_text() for end in (".out", ".err"))
            assert not goes_on, f"{log} goes on after {within} s: {out} {err}"
            found.append(Ended(process.exitcode, out, err, seconds))
        self.reserved.close()
        return found


def _run(
    log: Path,
    arguments: list[str],
    variables: dict[str, Any],
    fault: str,
    patient: bool,
    plain: bool,
    compiled: bool,
) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})
    if not patient:
        hurry()
    if plain:
        torch.nn.Dropout.forward = lambda self, x: x
    if compiled:  # real dynamo, without the half minute of code generation
        real = torch.compile
        torch.compile = lambda function, **options: real(function, backend="aot_eager", **options)
    for each in filter(None, fault.split(",")):
        plant(each)
    processes._run(log, arguments, "", log, None, None)


def hurry() -> None:
    """Make deaths be detected within seconds, and bound the wait for other processes."""
    from fasttrain.parallel import backends, distributed, hang, rendezvous, watch

    hang.BEAT, watch.LOST, watch.HURRIED, watch.GRACE = 0.1, 4.0, 0.8, 2.0
    backends.PATIENCE, rendezvous.JOIN, distributed.FETCH = 3.0, 4.0, 3.0
    backends.LEFT = 0.5


def plant(fault: str) -> None:
    """Make KIND happen in this process when it reaches PLACE."""
    from fasttrain.engine import evaluation, step
    from fasttrain.parallel import rendezvous, watch
    from fasttrain.run import find_lr, finish, train
    from fasttrain.storage import atomic

    kind, _, place = fault.partition("@")
    place, _, number = place.partition(":")
    home, name = {
        "join": (rendezvous, "join"),
        "data": (train, "splits"),
        "step": (step.Step, "__call__"),
        "rates": (train, "measure_rates"),
        "range test": (find_lr, "find_lr"),
        "destroy": (torch.distributed, "destroy_process_group"),
        "leave": (watch.Watch, "leave"),
        "evaluation": (evaluation, "measure"),
        "save": (atomic, "write_atomically"),
        "disk": (atomic, "_write"),
        "analysis": (finish, "explain_run"),
    }[place]
    real, calls = getattr(home, name), iter(range(1, 10**9))

    def broken(*args: Any, **options: Any) -> Any:
        if next(calls) == int(number or 1):
            args = spoiled(kind, *args) if kind in SPOILING else args
            FAULTS.get(kind, lambda: None)()
        return real(*args, **options)

    setattr(home, name, broken)


def spoiled(kind: str, step: Any, images: torch.Tensor, labels: torch.Tensor) -> tuple[Any, ...]:
    """Return the arguments of a step, made non-finite in this process alone."""
    if kind == "NaN images":
        return step, images * float("nan"), labels
    weight = next(step.model.parameters())
    once = weight.register_hook(lambda gradient: (once.remove(), gradient * float("nan"))[1])
    return step, images, labels
