"""From what a person names to a stream of images: files, folders, tables, arrays, lists, patterns.

Nothing is opened or counted before it is needed, so that a million files cost the memory of none.
"""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..data import arrays, content, folders, tables
from ..data.content import Content
from ..data.listing import SYNONYMS
from ..data.pictures import EXTENSIONS
from ..errors import DataError

STDIN = "-"


class Item(NamedTuple):
    """One image, or with `error` what stands where one should be; `label` is what it is said to
    be of. `path` is how a person finds it, None for what has no path."""

    path: str | None
    content: Content | None = None
    label: str | None = None
    error: str | None = None


def of_paths(paths: Iterable[str], classes: Container[str], stdin: BinaryIO) -> Iterator[Item]:
    """The images that a command line names, in its order; `-` is a list of paths on `stdin`."""
    for path in paths:
        if path == STDIN:
            for line in stdin:
                if name := os.fsdecode(line.rstrip(b"\r\n")):
                    yield from of_path(name, classes)
        else:
            yield from of_path(path, classes)


def of_python(images: Any, classes: Container[str]) -> Iterator[Item]:
    """The images that a program hands over: one of what content.check takes, or any number.

    A str or a path is what it would be on the command line, an array (N, H, W, 3) is N images.
    """
    if hasattr(images, "__array__") and not isinstance(images, np.ndarray):
        images = np.asarray(images)  # of another library
    if isinstance(images, str | os.PathLike):
        yield from of_path(os.fsdecode(images), classes)
    elif isinstance(images, np.ndarray) and images.ndim == 4:
        yield from (Item(None, content.check(image)) for image in images)
    elif isinstance(images, np.ndarray | bytes) or not hasattr(images, "__iter__"):
        yield Item(None, content.check(images))
    else:
        for one in images:
            yield from of_python(one, classes)


def of_path(path: str, classes: Container[str]) -> Iterator[Item]:
    """The images at one path: of a folder, a table or an array file all, of a pattern its files."""
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        return _of_folder(path, classes)
    if suffix in tables.SUFFIXES and os.path.isfile(path):
        return _told(path, partial(_of_table, path))
    if suffix == ".npz" and os.path.isfile(path):
        return _told(path, partial(_of_arrays, path))
    if glob.has_magic(path) and not os.path.lexists(path):
        return _of_pattern(path)
    return iter([Item(path, content.of_file(path))])


def _of_folder(folder: str, classes: Container[str]) -> Iterator[Item]:
    """Every image under a folder; one under a class's folder is said to be of that class."""
    walk, images, bad = folders.Walk(Path(folder)), 0, 0
    for inside in walk.images(walk.root):
        for one in walk.bad[bad:]:  # folders that could not be opened
            yield Item(os.path.join(folder, one.path), error=one.reason)
        images, bad = images + 1, len(walk.bad)
        path = os.path.join(folder, inside)
        yield Item(path, content.of_file(path), _label(inside, classes))
    for one in walk.bad[bad:]:
        yield Item(os.path.join(folder, one.path), error=one.reason)
    if not images and not walk.bad:
        left = "; ".join(walk.finished())
        yield Item(folder, error=f"no images in it{f' ({left})' if left else ''}")


def _label(inside: str, classes: Container[str]) -> str | None:
    """The class whose folder a path begins with, or that follows the folder of a split."""
    names = unicodedata.normalize("NFC", inside).split("/")[:-1]
    if names and names[0] not in classes and names[0].lower() in SYNONYMS:
        names = names[1:]
    return names[0] if names and names[0] in classes else None


def _of_table(path: str) -> Iterator[Item]:
    """The files that a table names, relative to its folder, perhaps with their labels."""
    root = os.path.dirname(path)
    for number, line in tables.lines(Path(path), needed=("file_name",)):
        name = line if isinstance(line, str) else line.get("file_name")
        if isinstance(line, str) or not isinstance(name, str) or not name:
            why = line if isinstance(line, str) else "no file_name"
            yield Item(path, error=f"line {number:,}: {why}")
            continue
        label = line.get("label")
        label = None if label in (None, "") else unicodedata.normalize("NFC", str(label))
        file = os.path.join(root, name)
        yield Item(file, content.of_file(file), label)


def _of_arrays(path: str) -> Iterator[Item]:
    """The rows of an array file, as `file.npz/test/0017`."""
    source, members = arrays.find_images(Path(path))
    for name, count, labels in members:
        digits = len(str(count))
        for number in range(count):
            inside = f"{name}/{number:0{digits}}"
            label = None if labels is None else labels[number]
            yield Item(f"{path}/{inside}", content.Stored(source, inside), label)


def _of_pattern(pattern: str) -> Iterator[Item]:
    """The image files that a pattern matches, by name; ** is any number of folders."""
    count = 0
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.splitext(path)[1].lower() in EXTENSIONS and os.path.isfile(path):
            count += 1
            yield Item(path, content.of_file(path))
    if not count:
        yield Item(pattern, error="no file or folder, and as a pattern it matches no image")


def _told(path: str, items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """`items()`; what is wrong with the file that names them is an item of its own."""
    try:
        yield from items()
    except (DataError, OSError, ValueError) as error:
        yield Item(path, error=str(error))
