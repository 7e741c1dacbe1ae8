"""The listing of a person's own images: a row for each file, and the names of the classes.

It is a plain value, so that splits, limits and reports are functions of it. Class numbers come from
one place: the sorted class names of the train split, which the other splits are joined to by name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..errors import DataError, shown

SPLITS = ("train", "val", "test")
SYNONYMS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MOST_SHOWN = 20  # items of a list in one message


class Row(NamedTuple):
    """An image. `path` is relative to the data set, `sha256` is of the file's bytes, the size is
    that of the upright image in pixels, `mode` is Pillow's, `note` says what is special (EXIF turn,
    16-bit, alpha)."""

    path: str
    sha256: str
    height: int
    width: int
    mode: str
    label: str
    split: str
    group: str = ""
    note: str = ""


class Bad(NamedTuple):
    """A file that cannot be used, and the reason."""

    path: str
    label: str
    split: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Rows sorted by split and path; `bad` holds the files that cannot be used."""

    rows: tuple[Row, ...]
    bad: tuple[Bad, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Row], bad: Iterable[Bad] = ()) -> Listing:
        """Return the sorted listing of `rows`, which may be in any order."""
        order = {name: number for number, name in enumerate(SPLITS)}
        ordered = sorted(rows, key=lambda row: (order[row.split], row.path))
        return cls(tuple(ordered), tuple(sorted(set(bad))))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The sorted class names of the train split; a class's number is its position here."""
        return tuple(sorted({row.label for row in self.rows if row.split == "train"}))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of path, content, label, split and group of every row."""
        digest = hashlib.sha256()
        for row in self.rows:
            line = "\0".join((row.path, row.sha256, row.label, row.split, row.group)) + "\0\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images."""
        return tuple(name for name in SPLITS if self.span(name) != (0, 0))

    def span(self, split: str) -> tuple[int, int]:
        """Return the first row of a split and the one after its last; (0, 0) if it has none."""
        return self._spans.get(split, (0, 0))

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        counts, spans, start = Counter(row.split for row in self.rows), {}, 0
        for name in SPLITS:
            if counts[name]:
                spans[name] = start, start + counts[name]
                start += counts[name]
        return spans

    def of_split(self, split: str) -> tuple[Row, ...]:
        """The rows of one split."""
        return self.rows[slice(*self.span(split))]

    def labels(self, split: str) -> np.ndarray:
        """Class numbers of one split's rows, int64 (N,)."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return np.array([numbers[row.label] for row in self.of_split(split)], np.int64)

    def without(self, reasons: Mapping[str, str]) -> Listing:
        """Return the listing with the rows whose SHA-256 is in `reasons` moved to `bad`."""
        found = [
            Bad(row.path, row.label, row.split, reasons[row.sha256])
            for row in self.rows
            if row.sha256 in reasons
        ]
        if not found:
            return self
        good = (row for row in self.rows if row.sha256 not in reasons)
        return Listing.of(good, (*self.bad, *found))

    def check(self, what: str) -> list[str]:
        """Return notes on what is unusual but usable; raise DataError if it cannot be trained on.

        `what` names the data set in the message.
        """
        if not self.classes:
            why = "no usable image to train on"
            if self.bad:
                why += f" ({listed(self.bad)})"
            raise DataError(f"{what}: {why}. Check the path and its layout.")
        if len(self.classes) == 1:
            raise DataError(
                f"{what}: only one class ({shown(self.classes[0])}), so there is nothing to tell "
                "apart. Name the folder that contains the class folders."
            )
        notes = []
        for split in self.splits[1:]:
            names = {row.label for row in self.of_split(split)}
            if unknown := sorted(names - set(self.classes)):
                raise DataError(
                    f"{what}: {split} has classes that are not in train "
                    f"({named(unknown)}). Use the same names, or remove them from {split}."
                )
            if missing := sorted(set(self.classes) - names):
                notes.append(f"{split} has no image of {named(missing)}")
        return notes


def listed(bad: Sequence[Bad]) -> str:
    """List the first MOST_SHOWN files that cannot be used, with reasons, and how many more."""
    shown_ones = [f"{shown(one.path, 80)} ({shown(one.reason, 120)})" for one in bad[:MOST_SHOWN]]
    return "; ".join(shown_ones) + more(len(bad))


def named(names: Sequence[str]) -> str:
    """List the first MOST_SHOWN names, and how many more."""
    return ", ".join(shown(name) for name in names[:MOST_SHOWN]) + more(len(names))


def more(count: int) -> str:
    """Return the end of a list that was cut at MOST_SHOWN."""
    return f"; and {count - MOST_SHOWN:,} more" if count > MOST_SHOWN else ""
