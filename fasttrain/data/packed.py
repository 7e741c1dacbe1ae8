"""Reads Parquet files with a column of the images' file bytes and one of labels.

That is the format in which Hugging Face publishes image sets. pyarrow is large, so it is an extra.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ..errors import DataError, EnvironmentProblem, shown
from . import pictures
from .files import stamp_of
from .found import Entry, Found
from .listing import SYNONYMS
from .pictures import Unusable

GROUPS = 3  # row groups kept in memory
IMAGES, LABELS = ("image", "img", "bytes"), ("label", "labels", "fine_label")


class Packed:
    """The source of entries such as "train-00000.parquet/17", which are rows of a file."""

    def __init__(self, root: Path, column: str) -> None:
        self.root, self.column, self.lock = root, column, threading.Lock()
        self.starts: dict[str, list[int]] = {}
        self.groups: OrderedDict[tuple[str, int], list[Any]] = OrderedDict()

    def stamp(self, path: str) -> str:
        try:
            return stamp_of(os.stat(self.root / path.rpartition("/")[0]))
        except OSError:
            return ""

    def open(self, path: str) -> BinaryIO:
        name, _, number = path.rpartition("/")
        with self.lock:
            value = self._row(name, int(number))
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes) or not value:
            raise Unusable("no image bytes in its row")
        return io.BytesIO(value)

    def image(self, file: BinaryIO) -> Image.Image:
        return pictures.opened(file)

    def _row(self, name: str, number: int) -> Any:
        """Return one cell; the row groups that were read last stay in memory."""
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            if name not in self.starts:
                about, starts = parquet.read_metadata(self.root / name), [0]
                for group in range(about.num_row_groups):
                    starts.append(starts[-1] + about.row_group(group).num_rows)
                self.starts[name] = starts
            starts = self.starts[name]
            group = next(i for i, start in enumerate(starts[1:]) if number < start)
            if (name, group) not in self.groups:
                with parquet.ParquetFile(self.root / name) as file:
                    table = file.read_row_group(group, columns=[self.column])
                self.groups[name, group] = table.column(self.column)
                if len(self.groups) > GROUPS:
                    self.groups.popitem(last=False)
            return self.groups[name, group][number - starts[group]].as_py()
        except (OSError, ValueError, pyarrow.ArrowException, StopIteration) as error:
            raise Unusable(f"damaged: {error}") from None


def find(paths: list[Path], *, root: Path | None = None) -> Found:
    """Return the rows of the files `paths` below `root`.

    The split of a row is a column, or the start of the file's name. Raises EnvironmentProblem
    without pyarrow, DataError if a file or a column is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise EnvironmentProblem(
            f"pyarrow (for {paths[0].name}): not installed. Run pip install pyarrow."
        ) from None
    root = paths[0].parent if root is None else root
    entries: list[Entry] = []
    column = ""
    for path in paths:
        try:
            schema = parquet.read_schema(path)
            column, label = (_column(schema.names, known) for known in (IMAGES, LABELS))
            wanted = [label, *({"split", "group"} & set(schema.names))]
            cells = parquet.read_table(path, columns=wanted).to_pydict()
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(
                f"Parquet ({path}): {error}. It needs a column image of the files' bytes and a "
                "column label."
            ) from None
        entries += _entries(path, root, cells, label, _names(schema.metadata, label))
    given = {entry.split for entry in entries}
    if given == {""}:
        entries = [entry._replace(split="train") for entry in entries]
    elif "" in given:
        raise DataError(
            f"Parquet ({root}): some rows have a split (by a column, or by the file's name), and "
            "some have none. Begin each file's name with train, val or test."
        )
    line = f"{len(paths):,} Parquet files" if len(paths) > 1 else "a Parquet file"
    return Found(root, line, Packed(root, column), entries, [], [])


def _entries(
    path: Path, root: Path, cells: dict[str, list[Any]], label: str, names: list[str]
) -> list[Entry]:
    file = path.relative_to(root).as_posix()
    words = re.split(r"[^a-z]+", file.lower())
    of_name = next((SYNONYMS[word] for word in words if word in SYNONYMS), "")
    count = len(cells[label])
    splits, groups = (cells.get(name, [None] * count) for name in ("split", "group"))
    found, digits = [], len(str(count))
    for number, (value, split, group) in enumerate(zip(cells[label], splits, groups, strict=True)):
        if value is None:
            raise DataError(f"Parquet ({path}): row {number:,} has no label. Remove it.")
        if isinstance(value, int) and 0 <= value < len(names):
            value = names[value]
        if split is not None and str(split).lower() not in SYNONYMS:
            raise DataError(
                f"Parquet ({path}): row {number:,} has split {shown(split)}, not train, val or "
                "test. Correct it."
            )
        known = of_name if split is None else SYNONYMS[str(split).lower()]
        place = f"{file}/{number:0{digits}}"
        found.append(Entry(place, str(value), known, "" if group is None else str(group)))
    return found


def _column(names: list[str], known: tuple[str, ...]) -> str:
    for name in known:
        if name in names:
            return name
    raise ValueError(f"no column {known[0]} among {', '.join(names)}")


def _names(metadata: dict[bytes, bytes] | None, label: str) -> list[str]:
    """Return the class names in Hugging Face's metadata, if there are any."""
    try:
        about = json.loads((metadata or {})[b"huggingface"])
        return [str(name) for name in about["info"]["features"][label]["names"]]
    except (KeyError, ValueError, TypeError):
        return []
