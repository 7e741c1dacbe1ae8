"""Runs a function over a list in several threads, and yields the results in order.

Decoding and hashing release the interpreter's lock. The number of tasks is bounded, and large
images wait for each other, so memory stays bounded on any number of cores.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

TOGETHER = 128  # items per task: every hand-over competes for the interpreter's lock
AHEAD = 3  # tasks per thread that are submitted in advance
IN_FLIGHT = 80_000_000  # pixels decoded at a time: 1 GB in three copies of 4 bytes


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    work: Callable[[In], Out],
    items: Sequence[In],
    *,
    threads: int | None = None,
    together: int = TOGETHER,
) -> Generator[Out, None, None]:
    """Yield the result of `work` for each item, in the order of `items`.

    A task has at most `together` items. At most AHEAD tasks per thread are submitted in advance.
    """
    threads = cores() if threads is None else threads
    # A short list of large images is spread over all threads too.
    size = min(together, 1 + len(items) // (4 * threads))
    return streamed(work, items, threads=threads, together=size)


def streamed(
    work: Callable[[In], Out],
    items: Iterable[In],
    *,
    threads: int | None = None,
    together: int = TOGETHER,
    abandon: Callable[[], None] = lambda: None,
) -> Generator[Out, None, None]:
    """The same for items that are made as they are needed and whose number nobody knows.

    `items` is read by the caller's thread, no further ahead than there is work under way. `abandon`
    is called if work is under way when the caller leaves early or a task fails, before it is
    waited for.
    """
    threads = cores() if threads is None else threads
    rest = iter(items)
    groups = iter(lambda: list(islice(rest, together)), [])
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fasttrain-images")
    waiting: deque[Future[list[Out]]] = deque()
    try:
        for group in islice(groups, threads * AHEAD):
            waiting.append(pool.submit(_all, work, group))
        while waiting:
            done = waiting[0].result()
            waiting.popleft()
            for group in islice(groups, 1):
                waiting.append(pool.submit(_all, work, group))
            yield from done
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        if waiting:
            abandon()
        raise
    finally:  # also if the caller stops early
        pool.shutdown(wait=True)


def _all(work: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    return [work(item) for item in items]


class Budget:
    """Lets work start while the sum of the sizes is at most `total`; a larger item runs alone.

    Whenever half of `total` has been freed, the memory goes back to the system: glibc would keep up
    to 64 MB for each thread that ever held a large image.
    """

    def __init__(self, total: int) -> None:
        self.total, self.used, self.freed = total, 0, 0
        self.changed = threading.Condition()

    @contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Wait until there is room for `size`; a small size never waits."""
        if size <= self.total // 500:
            yield
            return
        taken = min(size, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.used + taken <= self.total)
            self.used += taken
        try:
            yield
        finally:
            with self.changed:
                self.used -= taken
                self.freed += taken
                much = self.freed > self.total // 2
                self.freed = 0 if much else self.freed
                self.changed.notify_all()
            if much:
                _give_back()


def _give_back() -> None:
    """Return freed memory to the system with glibc; other allocators do so by themselves."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
