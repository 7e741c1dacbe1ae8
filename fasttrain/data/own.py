"""Loads a person's own images: finds, scans, splits, limits, prepares and checks them.

Training, `fasttrain data` and Python all take the same steps in the same order, so that they agree.
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
from .splits import Roles
from .workers import Workers


class Own(NamedTuple):
    """The prepared pixels with their listing, and the role of each split."""

    prepared: Prepared
    roles: Roles


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
    """Return the images at `path`, ready to train on; `folder` is the cache, by default the user's.

    Limits are drawn per class before anything is decoded; `test_limit` applies to val and to test.
    Raises DataError (4) for a problem of the data, EnvironmentProblem (3) if a package is missing,
    OutputError (6) if the disk is full.
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
        listing, roles = choose(scanned)
        log(f"  {roles.line}")
        prepared = ready(listing)
        # Only now is it known which files cannot be decoded. Choose again without them, as every
        # later start does, until all chosen ones can be decoded.
        while prepared.listing.rows != listing.rows:
            listing, roles = choose(scanned.without(scan.read_undecodable(folder)))
            log(f"  without files that cannot be used: {roles.line}")
            prepared = ready(listing)
    if bad := prepared.listing.bad:
        log(f"  {len(bad):,} files cannot be used and are left out: {listed(bad)}")
    for note in prepared.listing.check(what):  # again, since files may have been left out
        log(f"  {note}")
    return Own(prepared, roles)


def _chosen(
    listing: Listing,
    *,
    what: str,
    holdout: float,
    train_limit: int | None,
    test_limit: int | None,
) -> tuple[Listing, Roles]:
    """Return the images to use: with a held-out split, and within the limits."""
    listing.check(what)
    listing, roles = splits.assign_roles(listing, fraction=holdout)
    for split in listing.splits:
        count = train_limit if split == "train" else test_limit
        if count is not None:
            listing = splits.limit(listing, split, count)
    return listing, roles


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
    """Report all problems and peculiarities of the images at `path` at once.

    Every image is decoded as in `load`, since only that shows which ones are damaged.
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
        line, fatal = splits.assign_roles(listing, fraction=holdout)[1].line, []
    except DataError as error:
        line, fatal = str(error), [str(error)] if listing.rows else []
    return Report([*found.notes, *report.lines, *([line] if line else [])], report.fatal + fatal)


def where(cache_dir: Path | None = None) -> Path:
    """The folder of prepared pixels in `cache_dir`, else in the user's cache."""
    return cache.folder_of("images", cache_dir)
