"""Reads a MedMNIST-style .npz: {train,val,test}_images and _labels, without unpickling anything.

Images are streamed out of the file, a block at a time, so an array larger than memory is no
trouble.
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

BLOCK_BYTES, BLOCKS = 8 << 20, 8  # kept of what was read last
MODES = {(): "L", (1,): "L", (3,): "RGB", (4,): "RGBA"}
# zipfile has RuntimeError for a password, and NotImplementedError for a method it lacks.
_PLAIN = (OSError, ValueError, EOFError, KeyError, SyntaxError, RuntimeError)
DAMAGED = (*_PLAIN, zlib.error, zipfile.BadZipFile)


class Member:
    """One array of images in the file, read in blocks, forwards if it can be."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.lock = path, f"{name}.npy", threading.Lock()
        self.stream: Any = None
        self.next = 0  # block that the stream is at
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
    """Entries named "train/000017" that are rows of arrays."""

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
    """The rows of the file at `path`; DataError if its arrays are missing or unfit."""
    entries, members = [], {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            if not {"train_images", "train_labels"} <= names:
                said = ", ".join(sorted(names)[:10]) or "nothing"
                raise ValueError(f"holds {said}, not train_images and train_labels")
            for split in SPLITS:
                if f"{split}_images" not in names:
                    continue
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


def _labels(found: np.ndarray, split: str, count: int) -> list[str]:
    """Labels as names."""
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape != (count,):
        raise ValueError(f"{split}_labels is {found.shape} for {count:,} images")
    if found.dtype.kind in "iuU":
        return [str(label) for label in found.tolist()]
    raise ValueError(f"{split}_labels is {found.dtype}, neither whole numbers nor names")


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a .npy stream, which then stands at its data."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    shape, fortran, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
        file
    )
    if fortran:
        raise ValueError("an array in Fortran order")
    return shape, dtype
