"""Keeps the two halves as memory-mapped arrays in a folder, verified whenever they are opened.

A cut-off write is never a cache, and of several processes that start at once one fills it.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ..errors import DataError, OutputError
from . import Split

IMAGES, LABELS = (np.uint8, (32, 32, 3)), (np.int64, ())
ROWS: Mapping[str, tuple[type, tuple[int, ...]]] = {
    "train_images": IMAGES,
    "train_labels": LABELS,
    "test_images": IMAGES,
    "test_labels": LABELS,
}
NAMES = tuple(ROWS)
HEADER = 128  # bytes that np.save puts before such arrays
SCRATCH = ".fetch-"  # how the names of the folders of unfinished fetches begin
WAIT_SECONDS = 2400  # more than a fetch may take in all
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read(folder: Path, digests: Mapping[str, str]) -> tuple[Split, Split] | None:
    """The halves, mapped and read-only, if their arrays have `digests`; None if not.

    What the files' headers log is not used: numpy's parser of them trips over damaged ones.
    """
    try:
        a, b, c, d = (_mapped(folder / f"{name}.npy", *ROWS[name]) for name in NAMES)
    except (OSError, ValueError):
        return None
    halves = Split(a, b), Split(c, d)
    return halves if digests_of(halves) == digests else None


def write(folder: Path, halves: tuple[Split, Split], *, scratch: Path) -> None:
    """Write each array into `scratch`, on the same file system, then rename it into `folder`."""
    for name, array in _arrays(halves).items():
        path = scratch / f"{name}.npy"
        with open(path, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, folder / path.name)


def digests_of(halves: tuple[Split, Split]) -> dict[str, str]:
    """SHA-256 of each array's bytes, two at a time: hashing releases the interpreter's lock."""
    arrays = _arrays(halves)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(arrays, pool.map(_sha256, arrays.values()), strict=True))


@contextmanager
def exclusive(folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Make the folder and be the only process in it; a dead process's lock is free.

    Errors of the disk and of the lock become DataError, or OutputError where there is no room.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=WAIT_SECONDS)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log("waiting for another process that fetches the data")
            lock.acquire()
        try:
            for left in folder.glob(f"{SCRATCH}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            lock.release()
    except Timeout:
        raise DataError(
            f"cache ({folder}): another process has held its lock for {WAIT_SECONDS} s. "
            "End that process, or name the data with --data-dir."
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise _problem(folder, error) from None


def _problem(folder: Path, error: Exception) -> DataError | OutputError:
    why = getattr(error, "strerror", None) or str(error)
    no_room = isinstance(error, OSError) and error.errno in NO_ROOM
    kind, what = (OutputError, "Make room") if no_room else (DataError, "Make it writable")
    return kind(
        f"cache ({folder}): {why}. {what}, set XDG_CACHE_HOME, or name the data with --data-dir."
    )


def _mapped(path: Path, dtype: type, row: tuple[int, ...]) -> np.ndarray:
    count = (path.stat().st_size - HEADER) // (np.dtype(dtype).itemsize * math.prod(row))
    if count < 1:
        raise ValueError(f"{path} holds nothing")
    return np.memmap(path, dtype, "r", offset=HEADER, shape=(count, *row))


def _arrays(halves: tuple[Split, Split]) -> dict[str, np.ndarray]:
    train, test = halves
    return dict(zip(NAMES, (train.images, train.labels, test.images, test.labels), strict=True))


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.data).hexdigest()
