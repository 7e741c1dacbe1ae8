"""A person's own images from a path to arrays: found, scanned, split, limited, prepared, checked.

One order of these steps for training, `fasttrain data` and Python, so that they agree.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from . import cache, layouts, scan, splits
from .listing import Listing, listed
from .making import Log
from .prepare import Prepared, prepare
from .problems import Report, problems
from .splits import Judges
from .workers import Workers


class Own(NamedTuple):
    """The prepared pixels with their listing, and which split judges what."""

    prepared: Prepared
    judges: Judges


def load(
    path: Path,
    *,
    side: int | None = None,
    fit: str = "crop",
    holdout: float = splits.FRACTION,
    train_limit: int | None = None,
    test_limit: int | None = None,
    skip_bad_files: bool = False,
    folder: Path | None = None,
    log: Log = lambda line: None,
    scanning: scan.Progress = lambda done, total: None,
    preparing: scan.Progress = lambda done, total: None,
) -> Own:
    """The images at `path`, ready to train on; `folder` is the cache, else the user's.

    Limits are drawn per class before anything is decoded; `test_limit` holds for every split but
    train. Raises DataError (4) for what is wrong with the data, EnvironmentProblem (3) if a
    package is missing, OutputError (6) if the disk is full.
    """
    folder = where() if folder is None else folder
    found = layouts.find(path)
    log(found.line)
    for note in found.notes:
        log(f"  {note}")
    what = f"--dataset ({path})"
    choose = partial(
        _chosen, what=what, holdout=holdout, train_limit=train_limit, test_limit=test_limit
    )
    with Workers() as workers:
        ready = partial(
            prepare,
            source=found.source,
            side=side,
            fit=fit,
            folder=folder,
            skip_bad_files=skip_bad_files,
            log=log,
            progress=preparing,
            workers=workers,
        )
        scanned = scan.scan(found, folder=folder, progress=scanning, workers=workers)
        listing, judges = choose(scanned)
        log(f"  {judges.line}")
        prepared = ready(listing)
        # Which files cannot be decoded is known only now: choose anew, as every later start does,
        # until all that are chosen can be.
        while prepared.listing.rows != listing.rows:
            listing, judges = choose(scanned.without(scan.read_undecodable(folder)))
            log(f"  without files that cannot be used: {judges.line}")
            prepared = ready(listing)
    if bad := prepared.listing.bad:
        log(f"  {len(bad):,} files cannot be used and are left out: {listed(bad)}")
    for note in prepared.listing.check(what):  # again: more may have been left out
        log(f"  {note}")
    return Own(prepared, judges)


def _chosen(
    listing: Listing,
    *,
    what: str,
    holdout: float,
    train_limit: int | None,
    test_limit: int | None,
) -> tuple[Listing, Judges]:
    """The images that are used, with something held out and within the limits."""
    listing.check(what)
    listing, judges = splits.judged(listing, fraction=holdout)
    for split in listing.splits:
        count = train_limit if split == "train" else test_limit
        if count is not None:
            listing = splits.limit(listing, split, count)
    return listing, judges


def examine(
    path: Path,
    *,
    side: int | None = None,
    fit: str = "crop",
    holdout: float = splits.FRACTION,
    skip_bad_files: bool = False,
    folder: Path | None = None,
    log: Log = lambda line: None,
    scanning: scan.Progress = lambda done, total: None,
    preparing: scan.Progress = lambda done, total: None,
) -> Report:
    """Everything that is wrong or odd with the images at `path`, all at once.

    Every image is decoded, as `load` would do it: no other way shows which ones are damaged.
    """
    folder = where() if folder is None else folder
    found = layouts.find(path)
    log(found.line)
    with Workers() as workers:
        listing = scan.scan(found, folder=folder, progress=scanning, workers=workers)
        if listing.rows:
            listing = prepare(
                listing,
                found.source,
                side=side,
                fit=fit,
                folder=folder,
                skip_bad_files=True,
                log=log,
                progress=preparing,
                workers=workers,
            ).listing
    report = problems(listing, skip_bad_files=skip_bad_files)
    try:
        line, fatal = splits.judged(listing, fraction=holdout)[1].line, []
    except DataError as error:
        line, fatal = str(error), [str(error)] if listing.rows else []
    return Report([*found.notes, *report.lines, *([line] if line else [])], report.fatal + fatal)


def where() -> Path:
    """The folder of prepared pixels in the user's cache."""
    return cache.default_folder("images")
