"""Reads every file once, and caches the SHA-256 of its bytes and the facts in its header.

A file whose size, times and inode have not changed is not read again, so a second start only looks
at the names.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from sys import intern

import PIL

from ..errors import OutputError
from ..storage.atomic import make_folder, write_atomically
from . import crew, reading
from .found import Found
from .listing import Bad, Listing, Row
from .pictures import RULE, quiet
from .reading import Facts
from .workers import Workers

Progress = Callable[[int, int], None]
"""callback(files done so far, number of files)"""

HEAD = 65  # bytes of the cache before its lines: their SHA-256 and a line's end
# Another rule or another version of Pillow may decode them.
UNDECODABLE = f"undecodable-{RULE}-{PIL.__version__.partition('.')[0]}.csv"


def scan(
    found: Found,
    *,
    folder: Path | None = None,
    progress: Progress = lambda done, total: None,
    threads: int | None = None,
    workers: Workers | None = None,
) -> Listing:
    """Return the listing of a data set; `bad` holds the files that cannot be used, with reasons.

    `folder` is the cache. A truncated image is noticed only by `prepare`, when it is decoded; from
    then on the cache knows it. `workers` are processes that later work shares.
    """
    with Workers() if workers is None else nullcontext(workers) as hands:
        return _scan(found, folder, progress, threads, hands)


def _scan(
    found: Found, folder: Path | None, progress: Progress, threads: int | None, workers: Workers
) -> Listing:
    index = None if folder is None else _index(folder, found.root)
    known = {} if index is None else _remembered(index)
    # Before the files are looked at: starting takes 60 ms, looking at 10,000 files as long.
    workers.at_once(found.source, len(found.entries) - len(known), threads=threads)
    undecodable = {} if folder is None else read_undecodable(folder)
    stamps = [found.source.stamp(entry.path) for entry in found.entries]
    facts: dict[str, Facts | str] = {}
    unread: list[str] = []
    for entry, stamp in zip(found.entries, stamps, strict=True):
        old = known.get(entry.path)
        if old is not None and old[0] == stamp != "":
            facts[entry.path] = old[1]
        else:
            unread.append(entry.path)
    at_once = workers.at_once(found.source, len(unread), threads=threads)
    size = min(crew.TOGETHER, 1 + len(unread) // (4 * at_once))  # a short list is spread too
    groups = [unread[start : start + size] for start in range(0, len(unread), size)]
    results = crew.streamed(
        lambda paths: workers.call(
            reading.facts, found.source, paths, what=f"{paths[0]} to {paths[-1]}"
        ),
        groups,
        threads=at_once,
        together=1,
        abandon=workers.stop,
    )
    with closing(results), quiet():
        for paths, read in zip(groups, results, strict=True):
            facts.update(zip(paths, read, strict=True))
            progress(len(facts), len(found.entries))
    progress(len(found.entries), len(found.entries))
    if index is not None and unread:
        stamped = zip(found.entries, stamps, strict=True)
        _remember(index, ((entry.path, stamp, facts[entry.path]) for entry, stamp in stamped))
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
        data = index.read_bytes()
        if hashlib.sha256(memoryview(data)[HEAD:]).hexdigest().encode() != data[: HEAD - 1]:
            return {}
        with io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="") as file:
            file.readline()
            return {
                path: (stamp, (sha256, int(height), int(width), intern(mode), intern(note)))
                for path, stamp, sha256, height, width, mode, note in csv.reader(file)
            }
    except (OSError, ValueError, csv.Error):
        return {}


def _remember(index: Path, facts: Iterable[tuple[str, str, Facts | str]]) -> None:
    """Write the cache that `_remembered` reads; unusable files are read again at every start."""
    file = io.BytesIO()  # of a million files 200 MB, so it is not copied
    text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
    file.write(bytes(HEAD))
    good = ((path, stamp, *fact) for path, stamp, fact in facts if not isinstance(fact, str))
    csv.writer(text).writerows(good)
    text.detach()  # it would close the file
    data = file.getbuffer()
    data[:HEAD] = hashlib.sha256(data[HEAD:]).hexdigest().encode() + b"\n"
    with suppress(OutputError):  # then the next start reads the files again
        make_folder(index.parent)
        write_atomically(index, data)
