"""The result of finding a data set: its entries, and the source that reads their bytes.

It is separate from the layouts (folder, table, array file), so that scanning and preparing do not
depend on any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from PIL import Image

from .listing import Bad, Listing


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
