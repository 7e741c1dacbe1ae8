"""Makes a listing's images into one mapped array, once: decoded, upright, of one side.

Every later start opens what the first one made. The array's folder is named by a digest of the
files' contents, the side and the rule, so it can neither be stale nor be shared wrongly.
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
from .found import Source
from .listing import Bad, Listing, listed
from .making import Log, Work
from .pixels import Block, Store, mean_std
from .workers import Workers


@dataclass(frozen=True)
class Prepared:
    """`images` uint8 (N, side, side, 3), mapped and read-only, a row for each of the listing's;
    mean and deviation of the training pixels by channel, in 0..1."""

    images: np.ndarray
    listing: Listing
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: Path
    blocks: tuple[Block, ...]
    verified: bool

    def split(self, name: str) -> Split:
        """The images and the labels of one split, without a copy."""
        return Split(self.images[slice(*self.listing.span(name))], self.listing.labels(name))

    def verify(self) -> None:
        """DataError unless the array's bytes are those that were prepared; takes them away, so
        that the next start prepares them anew."""
        if Store(self.folder, self.side).intact(list(self.blocks)) < len(self.blocks):
            shutil.rmtree(self.folder, ignore_errors=True)
            raise DataError(
                f"prepared pixels ({self.folder}): damaged since they were made. Start again: "
                "they are made anew; check the disk if it happens again."
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
    """The listing's pixels from `folder`, or made there; `side` None chooses by the median.

    Raises DataError that names every file that cannot be used, unless `skip_bad_files`: then they
    are in the result's `listing.bad`. Raises OutputError where the disk has no room.
    """
    if side is None:
        rows = listing.of_split("train") or listing.rows
        side = pictures.auto_side([min(row.height, row.width) for row in rows] or [32])
    if listing.bad and not listing.rows:
        raise _refusal(listing.bad)
    make_folder(folder)
    with Workers() if workers is None else nullcontext(workers) as hands:
        work = Work(source, side, fit, folder, log, progress, threads, hands)
        listing, blocks, verified = work.array_of(listing)
    if not listing.rows or (listing.bad and not skip_bad_files):
        raise _refusal(listing.bad)
    store = Store(work.place(listing), side)
    mean, std = mean_std(blocks, side)
    images = store.mapped(blocks, side)
    return Prepared(images, listing, side, mean, std, store.folder, tuple(blocks), verified)


def _refusal(bad: Sequence[Bad]) -> DataError:
    return DataError(
        f"images ({len(bad):,} files): cannot be used: {listed(bad)}. Mend or remove them, or go "
        "on without them: --skip-bad-files."
    )
