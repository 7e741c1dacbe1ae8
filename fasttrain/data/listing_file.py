"""Writes a listing to listing.csv in the run directory, and reads it again.

Every line holds one file, so that a person can open it in a spreadsheet and filter it.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..errors import DataError
from ..storage.atomic import write_atomically
from .listing import SPLITS, Bad, Listing, Row

COLUMNS = (*Row._fields, "problem")


def write(path: Path, listing: Listing) -> None:
    """Write `listing.csv`: a line for each row, then one for each file that cannot be used."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    lines.writerows((*row, "") for row in listing.rows)
    lines.writerows(
        (bad.path, "", "", "", "", bad.label, bad.split, "", "", bad.reason) for bad in listing.bad
    )
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read(path: Path) -> Listing:
    """Return the listing that `write` wrote; DataError if the file is missing or damaged."""
    rows, bad = [], []
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file, strict=True)
            if tuple(next(lines, ())) != COLUMNS:
                raise ValueError("its heading is not that of a listing")
            for line in lines:
                name, sha256, height, width, mode, label, split, group, note, problem = line
                if split not in SPLITS:
                    raise ValueError(f"a split called {split!r}")
                if problem:
                    bad.append(Bad(name, label, split, problem))
                else:
                    size = int(height), int(width)
                    rows.append(Row(name, sha256, *size, mode, label, split, group, note))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"listing ({path}): cannot be read ({error}). A new run writes a new one."
        ) from None
    return Listing.of(rows, bad)
