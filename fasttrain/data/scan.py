"""Reads every file once, and caches the SHA-256 of its bytes and the facts in its header.

A file whose size, times and inode have not changed is not read again, so a second start only looks
at the names.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

import PIL

from ..errors import OutputError
from ..storage.atomic import make_folder, write_atomically
from . import crew
from .found import Entry, Found
from .listing import Bad, Listing, Row
from .pictures import RULE, Unusable, header, quiet

Progress = Callable[[int, int], None]
"""callback(files done so far, number of files)"""

Facts = tuple[str, int, int, str, str]  # SHA-256, height, width, mode, note
CHUNK = 1 << 20
EVERY = 64  # files between two calls of a Progress
# Another rule or another version of Pillow may decode them.
UNDECODABLE = f"undecodable-{RULE}-{PIL.__version__.partition('.')[0]}.csv"


def scan(
    found: Found,
    *,
    folder: Path | None = None,
    progress: Progress = lambda done, total: None,
    threads: int | None = None,
) -> Listing:
    """Return the listing of a data set; `bad` holds the files that cannot be used, with reasons.

    `folder` is the cache. A truncated image is noticed only by `prepare`, when it is decoded; from
    then on the cache knows it.
    """
    index = None if folder is None else _index(folder, found.root)
    known = {} if index is None else _remembered(index)
    undecodable = {} if folder is None else read_undecodable(folder)
    stamps = [found.source.stamp(entry.path) for entry in found.entries]
    facts: dict[str, Facts | str] = {}
    unread: list[Entry] = []
    for entry, stamp in zip(found.entries, stamps, strict=True):
        old = known.get(entry.path)
        if old is not None and old[0] == stamp != "":
            facts[entry.path] = old[1]
        else:
            unread.append(entry)
    total, done = len(found.entries), len(facts)
    results = crew.in_order(lambda entry: _facts(found, entry), unread, threads=threads)
    with closing(results), quiet():
        for number, (entry, read) in enumerate(zip(unread, results, strict=True), 1):
            facts[entry.path] = read
            if number % EVERY == 0:
                progress(done + number, total)
    progress(total, total)
    if index is not None and unread:
        stamped = zip(found.entries, stamps, strict=True)
        _remember(index, [(entry.path, stamp, facts[entry.path]) for entry, stamp in stamped])
    rows, bad = [], list(found.bad)
    for path, label, split, group in found.entries:
        fact = facts[path]
        if not isinstance(fact, str) and fact[0] in undecodable:
            fact = undecodable[fact[0]]
        if isinstance(fact, str):
            bad.append(Bad(path, label, split, fact))
        else:
            sha256, height, width, mode, note = fact
            rows.append(Row(path, sha256, height, width, mode, label, split, group, note))
    return Listing.of(rows, bad)


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a file from its start, and rewind the file."""
    digest = hashlib.sha256()
    while data := file.read(CHUNK):
        digest.update(data)
    file.seek(0)
    return digest.hexdigest()


def _facts(found: Found, entry: Entry) -> Facts | str:
    """Read one file; return its facts, or the reason why it cannot be used."""
    try:
        with found.source.open(entry.path) as file:
            sha256 = sha256_of(file)
            return sha256, *header(found.source.image(file))
    except Unusable as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def read_undecodable(folder: Path) -> dict[str, str]:
    """Return the known files that cannot be decoded: SHA-256 -> reason."""
    try:
        with open(folder / UNDECODABLE, encoding="utf-8", newline="") as file:
            return dict(csv.reader(file))
    except (OSError, ValueError, csv.Error):
        return {}


def add_undecodable(folder: Path, reasons: dict[str, str]) -> None:
    """Add files that cannot be decoded to the cache: SHA-256 -> reason."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(sorted({**read_undecodable(folder), **reasons}.items()))
    write_atomically(folder / UNDECODABLE, text.getvalue().encode("utf-8", "replace"))


def _index(folder: Path, root: Path) -> Path:
    name = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return folder / "scans" / f"{name[:32]}.csv"


def _remembered(index: Path) -> dict[str, tuple[str, Facts]]:
    """Read the cache: path -> stamp and facts; empty if it is missing or damaged."""
    try:
        digest, _, data = index.read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode() != digest:
            return {}
        lines = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""))
        return {
            path: (stamp, (sha256, int(height), int(width), mode, note))
            for path, stamp, sha256, height, width, mode, note in lines
        }
    except (OSError, ValueError, csv.Error):
        return {}


def _remember(index: Path, facts: list[tuple[str, str, Facts | str]]) -> None:
    """Write the cache that `_remembered` reads; unusable files are read again at every start."""
    text = io.StringIO(newline="")
    good = ((path, stamp, *fact) for path, stamp, fact in facts if not isinstance(fact, str))
    csv.writer(text).writerows(good)
    data = text.getvalue().encode("utf-8", "surrogateescape")
    with suppress(OutputError):  # then the next start reads the files again
        make_folder(index.parent)
        write_atomically(index, hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
