"""Reads a table of images: csv, tsv or jsonl with file_name and label, perhaps split and group.

All mistakes in a table are reported at once, by line, before any image is opened.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
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
    """Return the entries of the table at `path`; file names are relative to the table's folder.

    Raises DataError, which names the lines, if the table has mistakes.
    """
    root = Path(os.path.realpath(path.parent))
    entries, wrong, seen = [], [], set()
    for number, line in lines(path):
        found = _entry(line, root)
        if isinstance(found, str):
            wrong.append(f"line {number:,}: {found}")
        elif found.path in seen:
            wrong.append(f"line {number:,}: {shown(found.path, 80)} is listed twice")
        else:
            seen.add(found.path)
            entries.append(found)
    if wrong:
        said = "; ".join(wrong[:MOST_SHOWN]) + more(len(wrong))
        raise DataError(f"table ({path}): {said}. Correct these lines.")
    given = [entry for entry in entries if entry.split]
    if given and len(given) < len(entries):
        missing = len(entries) - len(given)
        raise DataError(
            f"table ({path}): {missing:,} lines have no split, and {len(given):,} have one. "
            "Give all lines a split, or none."
        )
    if not given:
        entries = [entry._replace(split="train") for entry in entries]
    said = "with splits" if given else "no split given"
    return Found(root, f"a table, {said}", Files(root), entries, [], [])


def _entry(line: dict[str, Any] | str, root: Path) -> Entry | str:
    """Return the entry of a line, or a description of its mistake."""
    if isinstance(line, str):
        return line
    cells = {}
    for name in NEEDED + OPTIONAL:
        value = line.get(name)
        if not isinstance(value, str | int | None) or isinstance(value, bool):
            return f"{name} is neither text nor a whole number"
        cells[name] = "" if value is None else str(value)
    if missing := [name for name in NEEDED if not cells[name]]:
        return f"no {missing[0]}"
    split = SYNONYMS.get(cells["split"].lower(), "")
    if cells["split"] and not split:
        return f"split {shown(cells['split'])} is not train, val or test"
    name = os.path.normpath(cells["file_name"])
    if "\0" in name:
        return "a file name with a NUL in it"
    if not os.path.realpath(root / name).startswith(os.path.join(root, "")):
        return f"{shown(cells['file_name'], 80)} is outside the table's folder"
    if os.path.isabs(name):
        name = os.path.relpath(os.path.realpath(name), root)
    label = unicodedata.normalize("NFC", cells["label"])
    return Entry(name.replace(os.sep, "/"), label, split, cells["group"])


def lines(
    path: Path, *, needed: Sequence[str] = NEEDED
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number and content of each line; a text says what is wrong with it.

    DataError if a csv lacks a column of those that are `needed`, or is none.
    """
    suffix = path.suffix.lower()
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if suffix == ".jsonl":
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, _object(text)
            return
        table = csv.DictReader(file, delimiter=DELIMITERS[suffix], strict=True)
        try:
            columns = table.fieldnames or ()
            if missing := [name for name in needed if name not in columns]:
                others = [name for name in (*NEEDED, *OPTIONAL) if name not in needed]
                why = _lacks(missing[0], columns, DELIMITERS[suffix])
                raise DataError(
                    f"table ({path}): {why}. Its first line must be {','.join(needed)} and, if "
                    f"wanted, {' and '.join(others[:2])}."
                )
            for line in table:
                spoilt = None in line or any(line[name] is None for name in needed)
                yield table.line_num, "the wrong number of cells" if spoilt else line
        except csv.Error as error:
            # Python 3.10 refuses a NUL, which text in UTF-16 has.
            why = "not text in UTF-8" if "NUL" in str(error) else str(error)
            raise DataError(
                f"table ({path}): line {table.line_num + 1:,}: {why}. Correct the line."
            ) from None


def _lacks(column: str, columns: Sequence[str], delimiter: str) -> str:
    """What is wrong with the first line of a table, as far as it shows."""
    first = delimiter.join(columns)
    if not first:
        return "its first line is empty"
    if "\0" in first:
        return "not text in UTF-8"
    why = f"no column {column} among {shown(', '.join(columns), 120)}"
    other = next((mark for mark in ";\t," if mark != delimiter and mark in first), "")
    named = {",": "commas", "\t": "tabs"}[delimiter]
    return f"{why}, which are not separated by {named}" if other and len(columns) == 1 else why


def _object(text: str) -> dict[str, Any] | str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "not JSON"
    return found if isinstance(found, dict) else "not a JSON object"
