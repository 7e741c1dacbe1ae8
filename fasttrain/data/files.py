"""Reads entries that are files under a folder.

It is separate from the other sources, so that a worker process does not import what those need.
"""

from __future__ import annotations

import io
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from . import pictures
from .pictures import Unusable

MOST_BYTES = 512 << 20  # of one file; 100 megapixels of RGB are 300 MB
SMALL_BYTES = 4 << 20  # a file up to this size is read in one call
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
FRESH_SECONDS = 1.0  # a file that changed more recently may change again without a new time stamp


class Files:
    """Entries that are files under a folder; a Source (found.py)."""

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
            # Each call lets another thread in, and waking up costs as much as decoding.
            handle = os.open(name, READ)
            try:
                data = os.read(handle, found.st_size + 1)
                while len(data) != found.st_size and (more := os.read(handle, SMALL_BYTES)):
                    data += more
            finally:
                os.close(handle)
            return io.BytesIO(data)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a table's path
            raise Unusable(f"cannot be read: {getattr(error, 'strerror', error)}") from None

    def image(self, file: BinaryIO) -> Image.Image:
        return pictures.opened(file)


def stamp_of(found: os.stat_result) -> str:
    """Return size, times and inode of a file; "" if it changed too recently to trust its times."""
    if max(found.st_mtime, found.st_ctime) > time.time() - FRESH_SECONDS:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"
