"""Decodes the images of a listing into an array in the cache, on all cores.

Other processes that need the same array wait. A preparation that was killed continues where it
stopped. If some files cannot be decoded, the finished array is renamed to that of the listing
without them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock, Timeout

from ..errors import OutputError
from ..storage.atomic import make_folder
from . import decoding, pictures, scan
from .found import Source
from .listing import Listing, Row
from .pixels import PIXELS, Block, Store
from .workers import Workers

Log = Callable[[str], None]
AT_ONCE = 2 << 30  # bytes: a larger array is verified in the background
SPARE = 64 << 20  # bytes of the disk that stay free


@dataclass(frozen=True)
class Work:
    """One preparation: where the images come from, how they are resized, where the array goes."""

    source: Source
    side: int
    fit: str
    folder: Path
    log: Log
    progress: scan.Progress
    threads: int | None
    workers: Workers

    def place(self, listing: Listing) -> Path:
        """Return the folder of a listing's array; its name depends on the pixels only."""
        major = PIL.__version__.partition(".")[0]
        digest = hashlib.sha256(f"{pictures.RULE} {major} {self.side} {self.fit}\n".encode())
        for row in listing.rows:
            digest.update(f"{row.sha256}{'t' if row.split == 'train' else 'e'}\n".encode())
        return self.folder / f"{digest.hexdigest()[:32]}-{self.side}"

    def array_of(self, listing: Listing) -> tuple[Listing, list[Block], bool]:
        """Return the listing without undecodable files, and the blocks of its array.

        The third value says whether the blocks have been verified.
        """
        listing = listing.without(scan.read_undecodable(self.folder))
        if not listing.rows:
            return listing, [], True
        place = self.place(listing)
        if (found := self._opened(Store(place, self.side))) is not None:
            return listing, *found
        with alone(place, self.log):
            if (known := listing.without(scan.read_undecodable(self.folder))) == listing:
                return self._array_of(listing, place)
        return self.array_of(known)  # meanwhile another process found files that cannot be decoded

    def _array_of(self, listing: Listing, place: Path) -> tuple[Listing, list[Block], bool]:
        store = Store(place, self.side)
        if (found := self._opened(store)) is not None:  # another process was first
            return listing, *found
        if store.done() is not None:
            self.log(f"the prepared pixels in {place} are damaged: preparing them again")
            shutil.rmtree(place, ignore_errors=True)
        make_folder(place)
        blocks = store.begun()
        self._check_room(listing, blocks)
        done = sum(block.images for block in blocks)
        for block in store.append(self._decoded(listing.rows, done)):
            blocks.append(block)
        bad = {sha256: why for block in blocks for sha256, why in block.bad.items()}
        if not bad:
            store.finish(blocks, self._about())
            return listing, blocks, True
        scan.add_undecodable(self.folder, bad)
        listing = listing.without(bad)
        blocks = [replace(block, images=block.rows, bad={}) for block in blocks]
        if listing.rows:  # the array is that of the listing without them: rename it
            with alone(self.place(listing), self.log):
                final = Store(self.place(listing), self.side)
                if final.done() is None:
                    make_folder(final.folder)
                    os.replace(place / PIXELS, final.folder / PIXELS)
                    final.finish(blocks, self._about())
        shutil.rmtree(place, ignore_errors=True)
        return (listing, blocks, True) if listing.rows else (listing, [], True)

    def _decoded(self, rows: Sequence[Row], done: int) -> Iterator[tuple[np.ndarray, Block]]:
        how = decoding.How(self.source, self.side, self.fit)
        return decoding.decoded(
            rows, done, how, workers=self.workers, threads=self.threads, progress=self.progress
        )

    def _about(self) -> dict[str, object]:
        return {"side": self.side, "fit": self.fit, "rule": pictures.RULE}

    def _check_room(self, listing: Listing, blocks: list[Block]) -> None:
        """Log how much will be written; OutputError if the disk has no room for it."""
        row = self.side * self.side * 3
        size, there = len(listing.rows) * row, sum(block.rows for block in blocks) * row
        free = shutil.disk_usage(self.folder).free
        if size - there + SPARE > free:
            raise OutputError(
                f"prepared pixels ({self.folder}): {size - there:,} bytes needed, {free:,} free. "
                "Make room, name another folder with --cache-dir, or choose a smaller --side."
            )
        again = f", {there / 1e6:,.0f} MB of it already there" if there else ""
        self.log(
            f"preparing {len(listing.rows):,} images of {self.side} x {self.side}: "
            f"{size / 1e6:,.0f} MB in {self.folder}{again}"
        )

    def _opened(self, store: Store) -> tuple[list[Block], bool] | None:
        """Return the blocks of a finished array; None if there is none or it is damaged."""
        blocks = store.done()
        if blocks is None:
            return None
        if sum(block.rows for block in blocks) * store.row > AT_ONCE:
            return blocks, False
        return (blocks, True) if store.intact(blocks) == len(blocks) else None


@contextmanager
def alone(place: Path, log: Log) -> Iterator[None]:
    """Hold the lock of `place`, so that only one process makes it; a dead process holds none."""
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            log("waiting for another process that is preparing these images")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise OutputError(
            f"cache ({place.parent}): cannot be locked ({error}). Make it writable, or name "
            "another folder with --cache-dir."
        ) from None
    try:
        yield
    finally:
        lock.release()
