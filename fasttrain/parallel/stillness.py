"""Sees from beside it that a thread stands still where nothing can be under way: that it hangs.

A process whose training hangs still gives signs of life, and the others wait in a collective for
minutes that a slow one may need. Slow is not still: it computes, waits for a processor or a disk,
or stands where it waits for others. What is none of these, look after look, is a hang.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, process_time, thread_time
from types import FrameType

HERE = Path(__file__).parent
IDLE = 0.05  # of a processor; in a hang 0.002 were used (two ranks, gloo, a core of a Xeon)
# Whose code may wait, on the stack: for other processes, a compiler, a network, a pipe or a reader.
# A disk is mostly seen by the thread's state, but not one that a program serves.
MAY_WAIT = (
    "torch/distributed/",  # a collective, and all of its ways there
    "torch/autograd/",  # backward, in which DDP's collectives end
    "torch/_dynamo/",
    "torch/_inductor/",
    "torch/cuda/",  # a GPU's first use may take a minute
    "<frozen importlib",
    "subprocess.py",
    "bdb.py",  # a person with a debugger
    "-packages/rich/",  # a terminal that is paused
    "-packages/tensorboard/",
    "fasttrain/data/fetch.py",
    "fasttrain/data/cache.py",  # of another process that fetches
    "fasttrain/distributed.py",  # for a machine's first process; each wait has its own limit
    "fasttrain/watch.py",
    "fasttrain/files.py",
    "fasttrain/saving.py",
)
# Whose own calls may wait, though not all that they call: for a GPU, or for DDP's buckets.
MAY_WAIT_ITSELF = (
    "torch/nn/parallel/distributed.py",
    "fasttrain/tally.py",
    "fasttrain/lr_finder.py",
)


class Stillness:
    """Of the thread that makes it; another one looks, at even intervals.

    Looks are counted and not seconds, so that a process which was stopped, or a machine that slept,
    has not stood still. Where the system does not tell a thread's state, nothing ever does.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._state = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        self._before: tuple[tuple[object, int], ...] = ()
        self._used, self._looked = 0.0, 0.0
        self.looks, self.place = 0, ""

    def look(self) -> int:
        """How many looks in a row, this one too, have found no progress since the one before."""
        frames = list(_stack(sys._current_frames().get(self._thread)))
        stack = tuple((frame.f_code, frame.f_lasti) for frame in frames)
        # What is used here is not the process's own doing.
        used, looked = process_time() - thread_time(), monotonic()
        idle = used - self._used < IDLE * (looked - self._looked)
        still = idle and stack == self._before and self._sleeps() and not may_wait(frames)
        self.looks = self.looks + 1 if still else 0
        self._before, self._used, self._looked = stack, used, looked
        self.place = _place(frames) if still else ""
        return self.looks

    def _sleeps(self) -> bool:
        """Whether the thread waits for something that is neither a processor nor a disk."""
        with suppress(OSError):
            return self._state.read_bytes().rpartition(b")")[2].split()[0] == b"S"
        return False


def may_wait(frames: list[FrameType]) -> bool:
    """Whether a stack, innermost first, stands where others may rightly be waited for."""
    files = [frame.f_code.co_filename.replace("\\", "/") for frame in frames]
    own = any(name in file for file in files[:1] for name in MAY_WAIT_ITSELF)
    return own or not files or any(name in file for file in files for name in MAY_WAIT)


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frames: list[FrameType]) -> str:
    """Where a stack stands, and from where of fasttrain it got there."""
    ours = [frame for frame in frames if HERE in Path(frame.f_code.co_filename).parents]
    reported = [frames[0], *ours[:1]] if frames[0] not in ours else ours[:1]
    return ", called from ".join(
        f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})"
        for frame in reported
    )
