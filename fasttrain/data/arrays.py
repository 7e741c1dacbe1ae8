"""Reads a MedMNIST-style .npz: {train,val,test}_images and _labels, without unpickling anything.

Images are read from the file one block at a time, so an array may be larger than memory.
"""

from __future__ import annotations

import io
import math
import os
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import DataError
from .files import stamp_of
from .found import Entry, Found
from .listing import SPLITS
from .pictures import Unusable

BLOCK_BYTES, BLOCKS = 8 << 20, 8  # the last blocks read are cached
MODES = {(): "L", (1,): "L", (3,): "RGB", (4,): "RGBA"}
# zipfile raises RuntimeError for a password and NotImplementedError for an unknown compression.
_PLAIN = (OSError, ValueError, EOFError, KeyError, SyntaxError, RuntimeError)
DAMAGED = (*_PLAIN, zlib.error, zipfile.BadZipFile)


class Member:
    """One array of images in the file; blocks are read in order where possible, and cached."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.lock = path, f"{name}.npy", threading.Lock()
        self.stream: Any = None
        self.next = 0  # index of the block that the stream reads next
        self.blocks: OrderedDict[int, bytes] = OrderedDict()
        with zipfile.ZipFile(path) as archive, archive.open(self.name) as file:
            self.shape, dtype = _header(file)
        if dtype != np.uint8 or len(self.shape) < 3 or self.shape[3:] not in MODES:
            raise ValueError(f"{name} is {dtype} {self.shape}, not uint8 (N, H, W) or (N, H, W, 3)")
        self.size, self.mode = (self.shape[2], self.shape[1]), MODES[self.shape[3:]]
        self.row = math.prod(self.shape[1:])
        if not self.row:
            raise ValueError(f"{name} has images without pixels {self.shape}")
        self.per_block = max(1, BLOCK_BYTES // self.row)

    def pixels(self, number: int) -> bytes:
        """The pixels of one image."""
        index, place = divmod(number, self.per_block)
        with self.lock:
            block = self.blocks.get(index) or self._read(index)
        found = block[place * self.row : (place + 1) * self.row]
        if len(found) < self.row:
            raise Unusable("the file ends before it")
        return found

    def _read(self, index: int) -> bytes:
        if self.stream is None or index < self.next:
            with zipfile.ZipFile(self.path) as archive:  # a member stays readable after its archive
                self.stream, self.next = archive.open(self.name), 0
            _header(self.stream)
        while True:
            block, here = self.stream.read(self.per_block * self.row), self.next
            self.next += 1
            if here == index:
                break
        self.blocks[index] = block
        if len(self.blocks) > BLOCKS:
            self.blocks.popitem(last=False)
        return block


class Arrays:
    """The source of entries such as "train/000017", which are rows of arrays."""

    def __init__(self, path: Path, members: dict[str, Member]) -> None:
        self.path, self.members = path, members

    def stamp(self, path: str) -> str:
        try:
            return stamp_of(os.stat(self.path))
        except OSError:
            return ""

    def open(self, path: str) -> BinaryIO:
        split, _, number = path.partition("/")
        try:
            file = io.BytesIO(self.members[split].pixels(int(number)))
        except DAMAGED as error:
            raise Unusable(f"damaged: {error}") from None
        file.name = split
        return file

    def image(self, file: BinaryIO) -> Image.Image:
        member = self.members[file.name]
        return Image.frombytes(member.mode, member.size, file.read())


def find(path: Path) -> Found:
    """Return the rows of the file at `path`; DataError if its arrays are missing or do not fit."""
    entries, members = [], {}
    try:
        with _opened(path) as archive:
            names = set(archive.files)
            if not {"train_images", "train_labels"} <= names:
                said = ", ".join(sorted(names)[:10]) or "nothing"
                raise ValueError(f"holds {said}, not train_images and train_labels")
            for split in SPLITS:
                if f"{split}_images" not in names:
                    continue
                if f"{split}_labels" not in names:
                    raise ValueError(f"holds {split}_images and no {split}_labels")
                members[split] = member = Member(path, f"{split}_images")
                labels = _labels(archive[f"{split}_labels"], split, member.shape[0])
                digits = len(str(len(labels)))
                entries += [
                    Entry(f"{split}/{number:0{digits}}", label, split)
                    for number, label in enumerate(labels)
                ]
    except DAMAGED as error:
        raise DataError(
            f"arrays ({path}): {error}. It needs train_images uint8 (N, H, W) or (N, H, W, 3) and "
            "train_labels of whole numbers or names, (N,) or (N, 1); val_ and test_ if there are."
        ) from None
    given = "with splits" if len(members) > 1 else "no split given"
    return Found(path, f"arrays, {given}", Arrays(path, members), entries, [], [])


def find_images(path: Path) -> tuple[Arrays, list[tuple[str, int, list[str] | None]]]:
    """Every array of images in the file at `path`, labelled or not: where their rows are had, and
    of each its name, its number of images and their labels. DataError if there is none.

    "train_images" is named "train", and "train_labels" are its labels; others keep their names.
    """
    members, found = {}, []
    try:
        with _opened(path) as archive:
            names = set(archive.files)
            for name in archive.files:
                try:
                    member = Member(path, name)
                except ValueError:  # an array of something else
                    continue
                short = name.removesuffix("_images")
                labels = "labels" if name == "images" else f"{short}_labels"
                of = None
                if labels in names:
                    of = _labels(archive[labels], short, member.shape[0])
                short = short.replace("/", "-")
                members[short] = member
                found.append((short, member.shape[0], of))
    except DAMAGED as error:
        raise DataError(f"arrays ({path}): {error}. It needs uint8 (N, H, W, 3).") from None
    if not found:
        said = ", ".join(sorted(names)[:10]) or "nothing"
        raise DataError(f"arrays ({path}): holds {said}, no uint8 (N, H, W) or (N, H, W, 3).")
    return Arrays(path, members), found


def _opened(path: Path) -> Any:
    """The arrays in the file; ValueError if it is none, which np.load opens if it is one array."""
    if not zipfile.is_zipfile(path):
        raise ValueError("no .npz file, or one that was cut short")
    return np.load(path, allow_pickle=False)


def _labels(found: np.ndarray, split: str, count: int) -> list[str]:
    """Return the labels as names."""
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape != (count,):
        raise ValueError(f"{split}_labels is {found.shape} for {count:,} images")
    if found.dtype.kind in "iuU":
        return [str(label) for label in found.tolist()]
    raise ValueError(f"{split}_labels is {found.dtype}, neither whole numbers nor names")


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and type of a .npy stream, and leave the stream at its data."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    shape, fortran, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
        file
    )
    if fortran:
        raise ValueError("an array in Fortran order")
    return shape, dtype
