"""What a layout (folder, table, array file) finds: entries, and how the bytes of one are had.

Kept apart from the layouts so that scanning and preparing know none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from PIL import Image

from .listing import Bad, Listing


class Entry(NamedTuple):
    """An image that a layout names; its file was not opened yet."""

    path: str
    label: str
    split: str
    group: str = ""


class Source(Protocol):
    """Where the bytes of an entry come from. Every method may be called from several threads."""

    def stamp(self, path: str) -> str:
        """What changes whenever the entry's bytes do, for free; "" if that cannot be known."""
        ...

    def open(self, path: str) -> BinaryIO:
        """The entry's bytes; Unusable, with the reason, if they cannot be read."""
        ...

    def image(self, file: BinaryIO) -> Image.Image:
        """The image that the bytes hold, not decoded yet; Unusable if they hold none."""
        ...


class Found(NamedTuple):
    """A data set: `line` says in one line what it is, `notes` what was left out."""

    root: Path
    line: str
    source: Source
    entries: list[Entry]
    notes: list[str]
    bad: list[Bad]

    def listing(self) -> Listing:
        """What is known before any file is read: only the files that cannot be used."""
        return Listing((), tuple(self.bad))
