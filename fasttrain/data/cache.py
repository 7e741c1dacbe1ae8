"""The cache of a data set: train and test arrays in a folder, memory-mapped and verified.

A write that was cut short is never used. If several processes start at once, one fills the cache.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from ..errors import DataError, OutputError
from ..storage.atomic import ANOTHER
from . import Split

IMAGES, LABELS = (np.uint8, (32, 32, 3)), (np.int64, ())
ROWS: Mapping[str, tuple[type, tuple[int, ...]]] = {
    "train_images": IMAGES,
    "train_labels": LABELS,
    "test_images": IMAGES,
    "test_labels": LABELS,
}
NAMES = tuple(ROWS)
HEADER = 128  # bytes that np.save writes before these arrays
SCRATCH = ".fetch-"  # prefix of the folders of unfinished downloads
WAIT_SECONDS = 2400  # longer than any download may take
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def folder_of(name: str, cache_dir: Path | None) -> Path:
    """Return the folder of data set `name` in `cache_dir`, else the default one."""
    return default_folder(name) if cache_dir is None else cache_dir / name


def default_folder(name: str) -> Path:
    """Return the folder of data set `name` in the user's caches; DataError if there is no home.

    A folder that release 0.1 filled stays in use: on Windows and macOS it chose another place.
    """
    try:
        earlier = _earlier_folder() / name
        if earlier.is_dir():
            return earlier
        return platformdirs.user_cache_path("fasttrain", appauthor=False) / name
    except RuntimeError as error:
        raise DataError(
            f"cache ({name}): no home folder ({error}). Set HOME, or name one with --cache-dir."
        ) from None


def _earlier_folder() -> Path:
    if sys.platform == "darwin":  # platformdirs also obeys XDG_CACHE_HOME there
        return Path.home() / "Library" / "Caches" / "fasttrain"
    # On Windows without the last part, `Cache`, that platformdirs adds; elsewhere the same.
    return platformdirs.user_cache_path("fasttrain", appauthor=False, opinion=False)


def read(folder: Path, digests: Mapping[str, str]) -> tuple[Split, Split] | None:
    """Return train and test, memory-mapped and read-only, or None unless they have `digests`.

    The headers of the files are not parsed: numpy's parser fails in many ways on damaged ones.
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
    """Return the SHA-256 of each array, two at a time: hashing releases the interpreter lock."""
    arrays = _arrays(halves)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(arrays, pool.map(_sha256, arrays.values()), strict=True))


@contextmanager
def written() -> Iterator[None]:
    """Within the block, let an OutputError advise --cache-dir and not --out."""
    try:
        yield
    except OutputError as error:
        advice = "or name another folder with --cache-dir"
        raise OutputError(str(error).replace(ANOTHER, advice)) from None


@contextmanager
def exclusive(folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Create the folder and hold its lock; the lock of a process that died is free.

    Errors of the disk or the lock become DataError, or OutputError if the disk is full.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=WAIT_SECONDS)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log("waiting for another process that downloads the data")
            lock.acquire()
        try:
            for leftover in folder.glob(f"{SCRATCH}*"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            with written():
                yield
        finally:
            lock.release()
    except Timeout:
        raise DataError(
            f"cache ({folder}): another process has held its lock for {WAIT_SECONDS} s. "
            "End that process, or name the data with --data-dir."
        ) from None
    except (OSError, NotImplementedError) as error:  # NotImplementedError: no locks
        raise _problem(folder, error) from None


def _problem(folder: Path, error: Exception) -> DataError | OutputError:
    why = getattr(error, "strerror", None) or str(error)
    no_room = isinstance(error, OSError) and error.errno in NO_ROOM
    kind, what = (OutputError, "Make room") if no_room else (DataError, "Make it writable")
    return kind(
        f"cache ({folder}): {why}. {what}, name another folder with --cache-dir, or the data with "
        "--data-dir."
    )


def _mapped(path: Path, dtype: type, row: tuple[int, ...]) -> np.ndarray:
    count = (path.stat().st_size - HEADER) // (np.dtype(dtype).itemsize * math.prod(row))
    if count < 1:
        raise ValueError(f"{path} is empty")
    return np.memmap(path, dtype, "r", offset=HEADER, shape=(count, *row))


def _arrays(halves: tuple[Split, Split]) -> dict[str, np.ndarray]:
    train, test = halves
    return dict(zip(NAMES, (train.images, train.labels, test.images, test.labels), strict=True))


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.data).hexdigest()
