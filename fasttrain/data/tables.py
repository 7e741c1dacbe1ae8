"""Reads a table of images: csv, tsv or jsonl with file_name and label, perhaps split and group.

All mistakes of a table are said at once, by line, before any image is opened.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, shown
from .files import Files
from .found import Entry, Found
from .listing import MOST_SHOWN, SYNONYMS, more

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl")
NEEDED, OPTIONAL = ("file_name", "label"), ("split", "group")


def find(path: Path) -> Found:
    """The entries of the table at `path`, whose file names are relative to its folder.

    DataError, naming the lines, if it cannot be read as one.
    """
    root = Path(os.path.realpath(path.parent))
    entries, wrong, seen = [], [], set()
    for number, line in _lines(path):
        found = _entry(line, root)
        if isinstance(found, str):
            wrong.append(f"line {number:,}: {found}")
        elif found.path in seen:
            wrong.append(f"line {number:,}: {shown(found.path, 80)} is named again")
        else:
            seen.add(found.path)
            entries.append(found)
    if wrong:
        said = "; ".join(wrong[:MOST_SHOWN]) + more(len(wrong))
        raise DataError(f"table ({path}): {said}. Mend these lines.")
    given = [entry for entry in entries if entry.split]
    if given and len(given) < len(entries):
        missing = len(entries) - len(given)
        raise DataError(
            f"table ({path}): {missing:,} lines without a split beside {len(given):,} with one. "
            "Give one to all or to none."
        )
    if not given:
        entries = [entry._replace(split="train") for entry in entries]
    said = "with splits" if given else "no split given"
    return Found(root, f"a table, {said}", Files(root), entries, [], [])


def _entry(line: dict[str, Any] | str, root: Path) -> Entry | str:
    """What a line names, or what is wrong with it."""
    if isinstance(line, str):
        return line
    cells = {}
    for name in NEEDED + OPTIONAL:
        value = line.get(name)
        if not isinstance(value, str | int | None) or isinstance(value, bool):
            return f"{name} is neither a text nor a whole number"
        cells[name] = "" if value is None else str(value)
    if missing := [name for name in NEEDED if not cells[name]]:
        return f"no {missing[0]}"
    split = SYNONYMS.get(cells["split"].lower(), "")
    if cells["split"] and not split:
        return f"split {shown(cells['split'])} is none of train, val, test"
    name = os.path.normpath(cells["file_name"])
    if "\0" in name:
        return "a file name with a NUL in it"
    if not os.path.realpath(root / name).startswith(os.path.join(root, "")):
        return f"{shown(cells['file_name'], 80)} leads out of the table's folder"
    if os.path.isabs(name):
        name = os.path.relpath(os.path.realpath(name), root)
    label = unicodedata.normalize("NFC", cells["label"])
    return Entry(name.replace(os.sep, "/"), label, split, cells["group"])


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number and content of each line; a text says what is wrong with it."""
    suffix = path.suffix.lower()
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if suffix == ".jsonl":
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, _object(text)
            return
        lines = csv.DictReader(file, delimiter=DELIMITERS[suffix], strict=True)
        try:
            columns = lines.fieldnames or ()
            if missing := [name for name in NEEDED if name not in columns]:
                raise DataError(
                    f"table ({path}): no column {missing[0]} among "
                    f"{shown(', '.join(columns), 120)}. Its first line is file_name,label and, "
                    "if wanted, split and group."
                )
            for line in lines:
                spoilt = None in line or any(line[name] is None for name in NEEDED)
                yield lines.line_num, "another number of cells" if spoilt else line
        except csv.Error as error:
            raise DataError(
                f"table ({path}): line {lines.line_num + 1:,}: {error}. Mend the line."
            ) from None


def _object(text: str) -> dict[str, Any] | str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "no JSON"
    return found if isinstance(found, dict) else "no JSON object"
