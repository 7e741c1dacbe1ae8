"""The result of finding a data set: its entries, and the source that reads their bytes.

It is separate from the layouts (folder, table, array file), so that scanning and preparing do not
depend on any of them.
"""

from __future__ import annotations

import io
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from PIL import Image

from . import pictures
from .listing import Bad, Listing
from .pictures import Unusable

MOST_BYTES = 512 << 20  # of one file; 100 megapixels of RGB are 300 MB
SMALL_BYTES = 4 << 20  # a file up to this size is read in one call
FRESH_SECONDS = 1.0  # a file that changed more recently may change again without a new time stamp


class Entry(NamedTuple):
    """An image that a layout lists; its file has not been opened yet."""

    path: str
    label: str
    split: str
    group: str = ""


class Source(Protocol):
    """Reads the bytes of entries. Every method may be called from several threads."""

    def stamp(self, path: str) -> str:
        """Return a text that changes whenever the entry does, without reading it; "" if unknown."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open the entry's bytes; raise Unusable, with the reason, if they cannot be read."""
        ...

    def image(self, file: BinaryIO) -> Image.Image:
        """Return the image in the bytes, not decoded yet; raise Unusable if there is none."""
        ...


class Found(NamedTuple):
    """A data set: `line` describes it in one line, `notes` lists what was left out."""

    root: Path
    line: str
    source: Source
    entries: list[Entry]
    notes: list[str]
    bad: list[Bad]

    def listing(self) -> Listing:
        """What is known before any file is read: only the files that cannot be used."""
        return Listing((), tuple(self.bad))


class Files:
    """Entries that are files under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)  # a str: joining Paths would take a tenth of a scan

    def stamp(self, path: str) -> str:
        try:
            return stamp_of(os.stat(os.path.join(self.root, path)))
        except OSError:
            return ""

    def open(self, path: str) -> BinaryIO:
        name = os.path.join(self.root, path)
        try:
            found = os.stat(name)
            if not stat.S_ISREG(found.st_mode):  # a pipe would never end
                raise Unusable("not a plain file")
            if found.st_size == 0:
                raise Unusable("empty")
            if found.st_size > MOST_BYTES:
                raise Unusable(f"{found.st_size:,} bytes, more than {MOST_BYTES:,}")
            if found.st_size > SMALL_BYTES:
                return open(name, "rb")
            # Each read of a file lets another thread in, and waking up costs as much as decoding.
            with open(name, "rb", buffering=0) as file:
                return io.BytesIO(file.read())
        except (OSError, ValueError) as error:  # ValueError: a NUL in a table's path
            raise Unusable(f"cannot be read: {getattr(error, 'strerror', error)}") from None

    def image(self, file: BinaryIO) -> Image.Image:
        return pictures.opened(file)


def stamp_of(found: os.stat_result) -> str:
    """Return size, times and inode of a file; "" if it changed too recently to trust its times."""
    if max(found.st_mtime, found.st_ctime) > time.time() - FRESH_SECONDS:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"
