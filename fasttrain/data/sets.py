"""Loads what --dataset names: a published data set, a synthetic one, or own images.

The result is a Data in every case, so that no other module has to know the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, shown
from ..recipe.datasets import is_path, refuse_near_miss, title
from . import CLASSES, Data, Split, cache, cifar10, cifar100, mnist, own, scan, splits, synthetic
from .fetch import Bar, Log, no_bar

Counted = Callable[[str], scan.Progress]
"""title -> callback(files done so far, number of files)"""


def uncounted(title: str) -> scan.Progress:
    """Show no progress."""
    return lambda done, total: None


def load(
    dataset: str,
    *,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    side: int | None = None,
    classes: int | None = None,
    fit: str = "crop",
    holdout: float = splits.FRACTION,
    train_limit: int | None = None,
    test_limit: int | None = None,
    first: bool = False,
    skip_bad_files: bool = False,
    reference: bool = False,
    log: Log = lambda line: None,
    bar: Bar = no_bar,
    counted: Counted = uncounted,
) -> Data:
    """Return the data set of that name or at that path; limits are drawn per class.

    With `first`, a limit takes the first images of a published data set, as release 0.1 did.
    Downloads and prepared pixels are kept in `cache_dir`, else in the user's cache. `side` None is
    the published side, or goes by the median of own images. `reference` uses the deviation of the
    source experiment. Raises UsageError for options that the data set does not have, and the errors
    of the modules that load it.
    """
    refuse_classes(dataset, classes)
    if reference and dataset not in ("cifar10", "synthetic"):
        raise UsageError(
            "--statistics (reference): exists only for CIFAR-10, not for "
            f"{shown(dataset)}. Use --statistics measured."
        )
    if is_path(dataset):
        refuse_near_miss(dataset)
        found, roles = own.load(
            Path(dataset),
            side=side,
            fit=fit,
            holdout=holdout,
            train_limit=train_limit,
            test_limit=test_limit,
            skip_bad_files=skip_bad_files,
            folder=own.where(cache_dir),
            log=log,
            scanning=counted("reading files"),
            preparing=counted("preparing images"),
        )
        final, both = found.split(roles.final), roles.chooses != roles.final
        val = found.split(roles.chooses) if both else None
        about = found.listing.classes, found.mean, found.std, title(dataset), found.listing
        unchecked = None if found.verified else found.verify
        return Data(found.split("train"), final, val, *about, unchecked)
    if dataset == "synthetic":
        data = _synthetic(train_limit, test_limit, side=side, classes=classes)
    else:
        data = _published(dataset, data_dir, cache_dir, log=log, bar=bar)
        if side not in (None, data.side):
            raise UsageError(
                f"--side ({side}): {dataset} has images of {data.side} pixels. Leave it out."
            )
    if reference:
        data = data._replace(std=cifar10.REFERENCE_STD)
    train = limited(data.train, train_limit, first=first)
    test = limited(data.test, test_limit, first=first)
    return data._replace(train=train, test=test)


def refuse_classes(dataset: str, classes: int | None) -> None:
    """Raise UsageError if a number of classes is given for images that have their own."""
    if classes is not None and dataset != "synthetic":
        raise UsageError(
            f"--classes ({classes}): only for --dataset synthetic; {shown(title(dataset))} has "
            "classes of its own. Leave it out."
        )


def limited(split: Split, count: int | None, *, first: bool = False) -> Split:
    """Return at most `count` images of a split: a share of each class, or with `first` the
    first."""
    if count is None or count >= len(split.labels):
        return split
    if first:
        return Split(np.asarray(split.images[:count]), np.asarray(split.labels[:count]))
    kept = splits.per_class(split.labels.tolist(), map(str, range(len(split.labels))), count)
    return Split(np.asarray(split.images[kept]), np.asarray(split.labels[kept]))


def describe(
    dataset: str,
    data_dir: Path | None,
    cache_dir: Path | None = None,
    *,
    side: int | None = None,
    classes: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fetch and verify a published data set; return where it is and what it holds: heading ->
    line."""
    if dataset == "cifar10" and side in (None, 32):
        folder = None if data_dir else cifar10.where(cache_dir)
        return cifar10.describe(data_dir, folder=folder, **options)
    wanted: dict[str, Any] = {"side": side, "classes": classes, **options}
    data = load(dataset, data_dir=data_dir, cache_dir=cache_dir, **wanted)
    made = dataset == "synthetic"
    where = "made by fasttrain" if made else data_dir or cache.folder_of(dataset, cache_dir)
    lines: dict[str, Any] = {"where": where}
    for name, split in (("train", data.train), ("test", data.test)):
        counts = np.bincount(split.labels, minlength=len(data.classes))
        size = f"{len(split.labels):,} images of {data.side} x {data.side}"
        lines[name] = f"{size}, {counts.min():,} to {counts.max():,} a class"
    return {**lines, "classes": f"{len(data.classes)}: {', '.join(data.classes)}"}


def _synthetic(
    train: int | None, test: int | None, *, side: int | None, classes: int | None
) -> Data:
    """Make at least as many images as are wanted, in whole chunks with equally many of each
    class."""
    chunk = synthetic.CHUNK
    counts = (
        most if limit is None else min(most, -(-limit // chunk) * chunk)
        for limit, most in ((train, 50_000), (test, 10_000))
    )
    side, kinds = side or synthetic.SIDE, classes or len(CLASSES)
    data = cifar10.data(*synthetic.load(*counts, side=side, classes=kinds), name="synthetic")
    return data if kinds == len(CLASSES) else data._replace(classes=synthetic.names(kinds))


def _published(
    dataset: str, data_dir: Path | None, cache_dir: Path | None, *, log: Log, bar: Bar
) -> Data:
    module: Any = {"cifar10": cifar10, "cifar100": cifar100, "mnist": mnist}[dataset]
    folder = None if data_dir else cache.folder_of(dataset, cache_dir)
    train, test = module.load(data_dir, log=log, bar=bar, folder=folder)
    classes = CLASSES if dataset == "cifar10" else module.CLASSES
    return Data(train, test, None, classes, module.MEAN, module.STD, dataset, None)
