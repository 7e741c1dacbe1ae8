"""Lists all problems and peculiarities of a data set at once, for a person to read.

`fasttrain data` prints it, so that nobody has to fix one file, start again and find the next.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..errors import DataError, shown
from .listing import MOST_SHOWN, Listing, Row, named

FEW = 5  # a class with fewer images is tiny


class Report(NamedTuple):
    """`lines` in the order to print; `fatal` lists what training would refuse."""

    lines: list[str]
    fatal: list[str]


def problems(listing: Listing, *, skip_bad_files: bool = False) -> Report:
    """Return counts, sizes, modes and every problem of a listing; opens no file."""
    fatal, odd = [], list(_duplicates(listing))
    try:
        odd += listing.check("data set")
    except DataError as error:
        fatal.append(str(error))
    bad = [f"cannot be used: {shown(one.path, 80)}: {one.reason}" for one in listing.bad]
    if bad and not skip_bad_files:
        fatal.append(f"{len(bad):,} files cannot be used; --skip-bad-files leaves them out")
    lines = [*_counts(listing), *_shapes(listing), *odd, *_tiny(listing), *bad, *fatal]
    return Report(lines, fatal)


def _counts(listing: Listing) -> Iterator[str]:
    yield f"{len(listing.classes):,} classes: {named(listing.classes)}"
    for split in listing.splits:
        counts = Counter(row.label for row in listing.of_split(split))
        by_class = [f"{shown(label)} {n:,}" for label, n in sorted(counts.items())[:MOST_SHOWN]]
        more = (
            f", and {len(counts) - MOST_SHOWN:,} classes more" if len(counts) > MOST_SHOWN else ""
        )
        low, high = min(counts.values()), max(counts.values())
        yield (
            f"{split}: {counts.total():,} images, {low:,} to {high:,} a class: "
            f"{', '.join(by_class)}{more}"
        )


def _shapes(listing: Listing) -> Iterator[str]:
    rows = listing.rows
    if not rows:
        return
    shorter = np.array([min(row.height, row.width) for row in rows])
    longer = np.array([max(row.height, row.width) for row in rows])
    yield (
        f"sizes: shorter side {shorter.min():,} to {shorter.max():,} pixels, median "
        f"{np.median(shorter):,.0f}; longer side up to {longer.max():,}"
    )
    modes = Counter(row.mode for row in rows).most_common()
    yield f"modes: {', '.join(f'{mode} {n:,}' for mode, n in modes)}"
    notes = Counter(note for row in rows for note in row.note.split(", ") if note)
    for note, n in sorted(notes.items()):
        yield f"{note}: {n:,} images{MEANING.get(note.partition(' ')[0], '')}"


MEANING = {
    "EXIF": ", turned upright",
    "16-bit": ", scaled to 8 bits",
    "alpha": ": it is dropped, so hidden colours become visible",
    "first": ": the first one is used",
}


def _duplicates(listing: Listing) -> Iterator[str]:
    """Identical files with two labels, in two splits, and within one class."""
    copies: dict[str, list[Row]] = defaultdict(list)
    for row in listing.rows:
        copies[row.sha256].append(row)
    several = [of for of in copies.values() if len(of) > 1]
    labels = [of for of in several if len({row.label for row in of}) > 1]
    splits = [of for of in several if len({row.split for row in of}) > 1]
    yield from _said("identical files with different labels", labels)
    yield from _said("identical files in different splits", splits)
    alike = (of for of in several if len({(row.label, row.split) for row in of}) == 1)
    plain = sum(len(of) - 1 for of in alike)
    if plain:
        yield f"identical files of one class and split: {plain:,} copies"


def _said(what: str, groups: list[list[Row]]) -> Iterator[str]:
    if groups:
        yield f"{what}: {len(groups):,}"
        for of in groups[:MOST_SHOWN]:
            places = (f"{shown(row.path, 80)} ({row.split}, {shown(row.label)})" for row in of[:4])
            yield f"  {' = '.join(places)}{' and more' if len(of) > 4 else ''}"


def _tiny(listing: Listing) -> Iterator[str]:
    counts = Counter(row.label for row in listing.of_split("train"))
    if tiny := [label for label in listing.classes if counts[label] < FEW]:
        yield f"tiny classes, fewer than {FEW} images in train: {named(tiny)}"
    if counts and max(counts.values()) > 10 * min(counts.values()):
        yield (
            f"unequal classes: {min(counts.values()):,} to {max(counts.values()):,} images in "
            "train; --balance loss or sample evens them out"
        )
