"""Finds the images in a folder of class folders, or in train, val and test folders of them.

File and folder names may be in any alphabet. Whatever is left out is counted and reported.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, shown
from . import tables
from .files import Files
from .found import Entry, Found
from .listing import SYNONYMS, Bad, named
from .pictures import EXTENSIONS

IGNORED = (".", "__")  # prefixes of names that are not data: .DS_Store, __MACOSX


class Walk:
    """What one walk through a folder found and left out."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.entries: list[Entry] = []
        self.bad: list[Bad] = []
        self.notes: list[str] = []
        self.links = 0
        self.others: Counter[str] = Counter()

    def classes(self, folder: str, split: str) -> None:
        """Add every folder inside `folder` as a class of `split`."""
        empty, loose = [], 0
        for name, path, is_folder in self._inside(folder):
            if not is_folder:
                loose += self._is_image(name)
                continue
            before = len(self.entries) + len(self.bad)
            label = unicodedata.normalize("NFC", name)
            self.entries += [Entry(at, label, split) for at in self.images(path, label, split)]
            if len(self.entries) + len(self.bad) == before:
                empty.append(name)
        where = os.path.basename(folder)
        if empty:
            self.notes.append(f"folders in {shown(where)} without images, left out: {named(empty)}")
        if loose:
            self.notes.append(f"{loose:,} images in {shown(where)} outside class folders: left out")

    def finished(self) -> list[str]:
        """Return all notes."""
        if self.links:
            self.notes.append(
                f"{self.links:,} links to folders, or to places outside this folder: not followed"
            )
        if self.others:
            kinds = ", ".join(f"{shown(end)} {n:,}" for end, n in self.others.most_common(5))
            self.notes.append(f"{self.others.total():,} files that are not images: {kinds}")
        return self.notes

    def images(self, top: str, label: str = "", split: str = "") -> Iterator[str]:
        """Paths within the root of the images under a folder, at any depth: a folder's own files
        by name, then those of its folders, found as they are asked for."""
        waiting = [top]
        while waiting:
            folders = []
            for name, path, is_folder in self._inside(waiting.pop(), label=label, split=split):
                if is_folder:
                    folders.append(path)
                elif self._is_image(name):
                    yield self._relative(path)
            waiting += reversed(folders)

    def _inside(
        self, folder: str, *, label: str = "", split: str = ""
    ) -> Iterator[tuple[str, str, bool]]:
        """Yield (name, path, is a folder) of what is in a folder, sorted; skip links out of the
        root."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"cannot be opened: {error.strerror}"
            self.bad.append(Bad(self._relative(folder), label, split or "train", reason))
            return
        for entry in entries:
            if entry.name.startswith(IGNORED):
                continue
            if entry.is_symlink() and not self._leads_to_a_file_inside(entry.path):
                self.links += 1
            elif entry.is_dir():
                yield entry.name, entry.path, True
            elif entry.is_file():
                yield entry.name, entry.path, False
            else:
                self.others["pipes and devices"] += 1

    def _is_image(self, name: str) -> bool:
        end = os.path.splitext(name)[1].lower()
        if end not in EXTENSIONS:
            self.others[end or "no ending"] += 1
        return end in EXTENSIONS

    def _leads_to_a_file_inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real.startswith(os.path.join(self.root, "")) and os.path.isfile(real)

    def _relative(self, path: str) -> str:
        return path[len(self.root) :].replace(os.sep, "/").lstrip("/")


def find(path: Path) -> Found:
    """The images under `path`; DataError if its folders contradict each other."""
    walk = Walk(path)
    names = _folders(walk.root)
    splits = _splits(path, names)
    if splits:
        for split, name in splits.items():
            walk.classes(os.path.join(walk.root, name), split)
        if others := [name for name in names if name not in splits.values()]:
            walk.notes.append(f"folders that are not a split, left out: {named(others)}")
        line = f"folders {', '.join(splits.values())} of class folders"
    else:
        if not names and (table := _only_table(path)):
            return tables.find(table)
        walk.classes(walk.root, "train")
        line = "a folder of class folders, no split given"
    return Found(
        Path(walk.root), line, Files(Path(walk.root)), walk.entries, walk.finished(), walk.bad
    )


def _splits(path: Path, names: list[str]) -> dict[str, str]:
    """Map split -> folder; empty if the folders are the classes."""
    splits: dict[str, str] = {}
    for name in names:
        split = SYNONYMS.get(name.lower())
        if split and split in splits:
            raise DataError(
                f"--dataset ({path}): {splits[split]} and {name} are both {split}. Keep one."
            )
        if split:
            splits[split] = name
    if splits and "train" not in splits:
        if len(splits) == len(names):
            raise DataError(
                f"--dataset ({path}): has {named(names)} and no train. Add the folder train."
            )
        return {}
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _folders(root: str) -> list[str]:
    with os.scandir(root) as found:
        return sorted(
            entry.name
            for entry in found
            if not entry.name.startswith(IGNORED) and entry.is_dir(follow_symlinks=False)
        )


def _only_table(path: Path) -> Path | None:
    """Return the only table in a folder without subfolders, if there is exactly one."""
    found = [one for one in sorted(path.iterdir()) if one.suffix.lower() in tables.SUFFIXES]
    return found[0] if len(found) == 1 and found[0].is_file() else None
