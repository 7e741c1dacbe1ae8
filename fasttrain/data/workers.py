"""Starts worker processes for the images of a large folder, and calls functions in them.

Threads share the interpreter's lock, and Pillow needs it for a fifth of the time, so they use no
more than a few cores. Each process is a `python -c`, not one of multiprocessing: a user's script is
never run a second time and needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TypeVar

from ..errors import DataError, FasttrainError, OutOfMemory
from . import crew
from .files import Files
from .found import Source
from .worker import READY

Out = TypeVar("Out")
# Fewer images are left to threads, since processes take time to start. With 300 JPEGs of 256 x 256,
# threads prepared 1.7 times as many images/s as processes, with 1,000 1.1 times, with 3,000 0.8
# times (n = 8, 8, 4; two cores of an AMD EPYC with other programs on them).
MANY = 1000
MOST = 24  # processes, of 15 to 25 MB each
PIPE = 1 << 20  # bytes of a result that a process can write before it is read
# For glibc: keep the memory of a small image for the next one, give that of a large one back.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 20)}


class Workers:
    """Calls functions in processes if some were started, else in this one; a context manager."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ready: set[int] = set()
        self.stopped = False
        self.idle: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def at_once(self, source: Source, images: int, *, threads: int | None = None) -> int:
        """Return how many calls to make at a time to read `images` of a source.

        Starts processes if there are enough images and `threads` is None; does not wait for them.
        """
        # Other sources cache what they read last, and threads share that.
        if threads is None and images >= MANY and isinstance(source, Files):
            self.start(min(MOST, crew.cores()))
        return len(self.processes) or threads or crew.cores()

    def start(self, count: int) -> None:
        """Start processes, unless there are some."""
        if self.processes or not _is_python(sys.executable):
            return
        with suppress(OSError):  # a limit of the system: fewer will do, or threads
            for _ in range(count):
                self.processes.append(_started())
                self.idle.put(self.processes[-1])

    def call(self, function: Callable[..., Out], *arguments: object, what: str) -> Out:
        """Return `function(*arguments)`; `what` names what it reads, for an error message.

        Raises what the function raises; OutOfMemory (8) or DataError (4) if the process dies.
        """
        process = self.idle.get() if self.processes else None
        try:
            if process is not None and not self._is_ready(process) and not self.stopped:
                process = None  # it does not start: do its work here
            if process is None:
                return function(*arguments)
            found = _asked(process, (function, arguments))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            if process is None:
                raise
            with suppress(OSError):
                _of(process.stdin).close()  # which ends it, if it still runs
            raise _death(process.wait(), what) from None
        finally:
            self.idle.put(process)
        good, result = found
        if not good:
            raise result
        return result

    def stop(self) -> None:
        """Kill the processes, which hold nothing to save. Calls under way fail."""
        self.stopped = True
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    _of(pipe).close()

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until a process has started; return False if it never will."""
        if process.pid not in self.ready:
            if _of(process.stdout).read(len(READY)) != READY:
                return False
            self.ready.add(process.pid)
        return True


def _started() -> subprocess.Popen[bytes]:
    """Start a process that runs worker.py and imports the same modules as this process would."""
    path = [*sys.path, str(Path(__file__).parents[2])]
    code = f"import sys; sys.path[:] = {path!a}; from fasttrain.data.worker import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **MALLOC},
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    with suppress(ImportError, AttributeError, OSError):  # only Linux has it
        import fcntl

        fcntl.fcntl(_of(process.stdout), fcntl.F_SETPIPE_SZ, PIPE)
    return process


def _asked(process: subprocess.Popen[bytes], call: object) -> tuple[bool, Any]:
    pickle.dump(call, _of(process.stdin), protocol=5)
    _of(process.stdin).flush()
    return pickle.load(_of(process.stdout))


def _of(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _death(status: int, what: str) -> FasttrainError:
    if status == -getattr(signal, "SIGKILL", 9):
        return OutOfMemory(
            f"{what}: the process that read them was killed, which systems do if memory runs out. "
            "Close other programs and start again to continue."
        )
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return DataError(
        f"{what}: the process that read them ended ({how}). Start again; if it ends again, remove "
        "these files: one of them makes it end."
    )


def _is_python(executable: str | None) -> bool:
    """Return whether it takes -c; a frozen program, or one that embeds Python, would not."""
    name = Path(executable or "").name.lower()
    return name.startswith(("python", "pypy")) and not hasattr(sys, "frozen")
