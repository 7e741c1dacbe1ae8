"""Worker processes for the images of a large folder.

Pillow's Python part, hashing and files take turns at the interpreter's lock, so threads stop at a
few cores. Each process is a `python -c` of its own and not one of multiprocessing's: nobody's
script is run a second time, and who calls this needs no `if __name__ == "__main__"`.
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
# Images from which on processes pay for their start: of 300 JPEGs of 256 x 256 threads prepared 1.7
# times as many a second, of 1,000 1.1, of 3,000 0.8 (n = 8, 8, 4; 2 cores that others used too).
MANY = 1000
MOST = 24  # processes: each takes 25 MB
PIPE = 1 << 20  # bytes of a result that need not wait to be read
# Of glibc's malloc: pages are kept from one small image to the next, and none of a large one.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 20)}


class Workers:
    """Calls functions in processes where these pay, else in this one; a context that ends them."""

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
        """How many calls to make at a time for so many images of a source.

        Starts processes if they pay and `threads` does not say how many threads there shall be;
        does not wait until they have started.
        """
        # Other sources keep what they read last, and share it between threads.
        if threads is None and images >= MANY and isinstance(source, Files):
            self.start(min(MOST, crew.cores()))
        return len(self.processes) or threads or crew.cores()

    def start(self, count: int) -> None:
        """Start processes unless there are some."""
        if self.processes or not _is_python(sys.executable):
            return
        with suppress(OSError):  # no more processes, or no memory: then fewer, or threads
            for _ in range(count):
                self.processes.append(_started())
                self.idle.put(self.processes[-1])

    def call(self, function: Callable[..., Out], *arguments: object, what: str) -> Out:
        """`function(*arguments)`; `what` it reads is named where a process dies of it.

        Raises what the function raises, and OutOfMemory (8) or DataError (4) for a death.
        """
        process = self.idle.get() if self.processes else None
        try:
            if process is not None and not self._is_ready(process) and not self.stopped:
                process = None  # it cannot start: its share is done here
            if process is None:
                return function(*arguments)
            found = _asked(process, (function, arguments))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            if process is None:
                raise
            raise _death(process.wait(), what) from None
        finally:
            self.idle.put(process)
        good, result = found
        if not good:
            raise result
        return result

    def stop(self) -> None:
        """End the processes at once: they hold nothing. Calls under way fail."""
        self.stopped = True
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    _of(pipe).close()

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until a process has started; False if it never will."""
        if process.pid not in self.ready:
            if _of(process.stdout).read(len(READY)) != READY:
                return False
            self.ready.add(process.pid)
        return True


def _started() -> subprocess.Popen[bytes]:
    """A process that runs worker.py, with the modules that this process would import."""
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
            f"{what}: the process that read them was killed, as systems do where memory runs out. "
            "End other programs and start again: it goes on where it was."
        )
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return DataError(
        f"{what}: the process that read them ended ({how}). Start again; if it ends again, one of "
        "these files is at fault: take them out."
    )


def _is_python(executable: str | None) -> bool:
    """Whether it takes -c: a frozen program, or one that embeds Python, would start itself."""
    name = Path(executable or "").name.lower()
    return name.startswith(("python", "pypy")) and not hasattr(sys, "frozen")
