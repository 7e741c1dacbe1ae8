"""Threads over all cores that work through a list in order, with a bounded number under way.

Decoding and hashing release the interpreter's lock, so threads are as fast as processes and need
no copies. Large images take turns, so that memory stays bounded however many cores there are.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

TOGETHER = 8  # items a task: a task costs 50 microseconds, a small image 200
AHEAD = 64  # items under way for each thread, at least


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
    ahead: int = 0,
) -> Generator[Out, None, None]:
    """The result of `work` for each item, in the order of `items`.

    `ahead` results at most, or AHEAD for each thread if that is more, wait to be taken.
    """
    groups = (items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER))
    threads = cores() if threads is None else threads
    window = max(ahead, threads * AHEAD) // TOGETHER
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fasttrain-images")
    waiting: deque[Future[list[Out]]] = deque()
    try:
        for group in islice(groups, window):
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
    """Lets work under way until its size reaches `total`; something larger goes alone."""

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0
        self.changed = threading.Condition()

    @contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Wait for room for `size`."""
        size = min(size, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.used + size <= self.total)
            self.used += size
        try:
            yield
        finally:
            with self.changed:
                self.used -= size
                self.changed.notify_all()
