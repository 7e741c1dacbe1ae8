"""Turns the images of a listing into one memory-mapped array, once: decoded, upright, square.

Later starts open that array. The name of its folder is a digest of the files' contents, the side
and the rule, so it is never out of date and never used for other images.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..storage.atomic import make_folder
from . import Split, pictures, scan
from .cache import written
from .found import Source
from .listing import Bad, Listing, listed
from .making import Log, Work
from .pixels import Block, Store, mean_std
from .workers import Workers


@dataclass(frozen=True)
class Prepared:
    """`images` uint8 (N, side, side, 3), memory-mapped and read-only, one for each row of
    `listing`; mean and deviation are of the training pixels by channel, in 0..1."""

    images: np.ndarray
    listing: Listing
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: Path
    blocks: tuple[Block, ...]
    verified: bool

    def split(self, name: str) -> Split:
        """Return the images and labels of one split, without a copy."""
        return Split(self.images[slice(*self.listing.span(name))], self.listing.labels(name))

    def verify(self) -> None:
        """Raise DataError if the array has changed since it was prepared.

        A damaged array is removed, so that the next start prepares it again.
        """
        if Store(self.folder, self.side).intact(list(self.blocks)) < len(self.blocks):
            shutil.rmtree(self.folder, ignore_errors=True)
            raise DataError(
                f"prepared pixels ({self.folder}): damaged since they were made. Start again "
                "to prepare them again; check the disk if it happens twice."
            )


def prepare(
    listing: Listing,
    source: Source,
    *,
    side: int | None,
    fit: str = "crop",
    folder: Path,
    skip_bad_files: bool = False,
    log: Log = lambda line: None,
    progress: scan.Progress = lambda done, total: None,
    threads: int | None = None,
    workers: Workers | None = None,
) -> Prepared:
    """Return the listing's pixels, from `folder` or decoded now; `side` None goes by the median.

    Raises DataError that names every file that cannot be used; with `skip_bad_files` they are in
    the listing's `bad` instead. Raises OutputError if the disk is full. `workers` are processes
    that earlier work has started.
    """
    if side is None:
        rows = listing.of_split("train") or listing.rows
        side = pictures.auto_side([min(row.height, row.width) for row in rows] or [32])
    if listing.bad and not listing.rows:
        raise _refusal(listing.bad)
    with written(), Workers() if workers is None else nullcontext(workers) as hands:
        work = Work(source, side, fit, folder, log, progress, threads, hands)
        make_folder(folder)
        listing, blocks, verified = work.array_of(listing)
    if not listing.rows or (listing.bad and not skip_bad_files):
        raise _refusal(listing.bad)
    store = Store(work.place(listing), side)
    mean, std = mean_std(blocks, side)
    images = store.mapped(blocks, side)
    return Prepared(images, listing, side, mean, std, store.folder, tuple(blocks), verified)


def _refusal(bad: Sequence[Bad]) -> DataError:
    return DataError(
        f"images ({len(bad):,} files): cannot be used: {listed(bad)}. Repair or remove them, or "
        "leave them out with --skip-bad-files."
    )
