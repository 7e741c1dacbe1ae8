"""Threads over all cores that work through a list in order, with a bounded number under way.

Decoding and hashing release the interpreter's lock, so threads are as fast as processes and need
no copies. Large images take turns, so that memory stays bounded however many cores there are.
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

TOGETHER = 128  # items a task at most: each handing over is a fight for the interpreter's lock
AHEAD = 3  # tasks under way for each thread
IN_FLIGHT = 80_000_000  # pixels decoded at a time: 1 GB in three copies of 4 bytes


def cores() -> int:
    """Cores that this process may use."""
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
    """The result of `work` for each item, in the order of `items`.

    A task is `together` items at most, and AHEAD tasks for each thread wait to be taken.
    """
    threads = cores() if threads is None else threads
    size = min(together, 1 + len(items) // (4 * threads))  # a few large ones are shared out too
    return streamed(work, items, threads=threads, together=size)


def streamed(
    work: Callable[[In], Out],
    items: Iterable[In],
    *,
    threads: int | None = None,
    together: int = TOGETHER,
) -> Generator[Out, None, None]:
    """The same for items that are made as they are needed and whose number nobody knows.

    `items` is read by the caller's thread, no further ahead than there is work under way.
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
            done = waiting.popleft().result()
            for group in islice(groups, 1):
                waiting.append(pool.submit(_all, work, group))
            yield from done
    finally:  # also where the caller leaves early
        pool.shutdown(wait=True, cancel_futures=True)


def _all(work: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    return [work(item) for item in items]


class Budget:
    """Lets work under way until its size reaches `total`; something larger goes alone.

    After every half of `total`, what was freed goes back to the system: glibc would keep up to
    64 MB for each thread that ever held a large image.
    """

    def __init__(self, total: int) -> None:
        self.total, self.used, self.freed = total, 0, 0
        self.changed = threading.Condition()

    @contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Wait for room for `size`; what is small needs to ask nobody."""
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
    """Let glibc return freed memory; other systems' allocators do so by themselves."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
