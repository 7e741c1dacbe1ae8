"""Prepared pixels on disk: one uint8 array in blocks, each with its SHA-256.

A block counts once its bytes are on disk and its line is in the progress file. So a preparation
that was killed continues where it stopped, and a finished array can be verified on all cores at
once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.atomic import reported, write_json
from . import crew, sums

PIXELS, BLOCKS, DONE = "pixels.u8", "blocks.jsonl", "done.json"
BLOCK_BYTES, MOST_ROWS = 16 << 20, 1024


@dataclass(frozen=True)
class Block:
    """Part of the array: `images` of the listing were decoded, `rows` of them are good. `sums` and
    `squares` are over the values of the `training` images, by channel."""

    images: int
    rows: int
    sha256: str
    training: int = 0
    sums: tuple[int, ...] = (0, 0, 0)
    squares: tuple[int, ...] = (0, 0, 0)
    bad: dict[str, str] = field(default_factory=dict)  # SHA-256 of a file -> reason


def rows_in_block(side: int) -> int:
    """Return how many images make a block."""
    return max(1, min(MOST_ROWS, BLOCK_BYTES // (side * side * 3)))


def mean_std(blocks: Iterable[Block], side: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the training pixels by channel, in 0..1; of none 0 and 1."""
    blocks = list(blocks)
    count = sum(block.training for block in blocks) * side * side
    added = [sum(block.sums[channel] for block in blocks) for channel in range(3)]
    squares = [sum(block.squares[channel] for block in blocks) for channel in range(3)]
    return sums.mean_std(count, added, squares)


class Store:
    """The folder of one array: reads what is there, and appends blocks."""

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.row = folder, side * side * 3

    def done(self) -> list[Block] | None:
        """Return the blocks of a finished array; None if it is not finished."""
        try:
            about = json.loads((self.folder / DONE).read_bytes())
            blocks = [_block(one) for one in about["blocks"]]
            size = (self.folder / PIXELS).stat().st_size
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return blocks if size == sum(block.rows for block in blocks) * self.row else None

    def intact(self, blocks: list[Block], *, threads: int | None = None) -> int:
        """Return how many blocks, counted from the first, still have their SHA-256."""
        starts = [0]
        for block in blocks:
            starts.append(starts[-1] + block.rows * self.row)
        pieces = list(zip(blocks, starts, strict=False))
        for number, good in enumerate(crew.in_order(self._is_good, pieces, threads=threads)):
            if not good:
                return number
        return len(blocks)

    def _is_good(self, piece: tuple[Block, int]) -> bool:
        block, start = piece
        try:  # read, not mapped: mapped pages count as this process's memory
            with open(self.folder / PIXELS, "rb") as file:
                file.seek(start)
                data = file.read(block.rows * self.row)
        except OSError:
            return False
        return hashlib.sha256(data).hexdigest() == block.sha256

    def begun(self) -> list[Block]:
        """Return the intact blocks of an unfinished array; cut off what follows them on disk."""
        blocks = []
        with suppress(OSError, ValueError, TypeError, KeyError):  # a torn last line
            for line in (self.folder / BLOCKS).read_bytes().splitlines():
                blocks.append(_block(json.loads(line)))
        blocks = blocks[: self.intact(blocks)]
        with reported(self.folder):
            with open(self.folder / PIXELS, "ab") as file:
                file.truncate(sum(block.rows for block in blocks) * self.row)
            with open(self.folder / BLOCKS, "wb") as file:
                file.writelines(_line(block) for block in blocks)
        return blocks

    def append(self, blocks: Iterable[tuple[np.ndarray, Block]]) -> Iterator[Block]:
        """Write blocks to disk while the next one is made; yield each once it is there."""
        with (
            open(self.folder / PIXELS, "ab", buffering=0) as pixels,
            open(self.folder / BLOCKS, "ab", buffering=0) as progress,
            ThreadPoolExecutor(1, thread_name_prefix="fasttrain-disk") as disk,
        ):
            pending: Future[Block] | None = None
            for data, block in blocks:
                if pending is not None:
                    yield pending.result()
                pending = disk.submit(self._write, pixels, progress, data, block)
            if pending is not None:
                yield pending.result()

    def _write(self, pixels: RawIOBase, progress: RawIOBase, data: np.ndarray, b: Block) -> Block:
        content = data.reshape(-1).data
        added, squares = (tuple(int(n) for n in line) for line in sums.totals(data[: b.training]))
        digest = hashlib.sha256(content).hexdigest()
        block = replace(b, sha256=digest, sums=added, squares=squares)
        with reported(self.folder, needed=data.nbytes):
            for file, part in ((pixels, content), (progress, _line(block))):  # in this order
                rest = memoryview(part)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                os.fsync(file.fileno())
        return block

    def finish(self, blocks: list[Block], about: dict[str, Any]) -> None:
        """Mark the array as complete."""
        write_json(self.folder / DONE, {**about, "blocks": [asdict(block) for block in blocks]})
        with suppress(OSError):
            (self.folder / BLOCKS).unlink()

    def mapped(self, blocks: list[Block], side: int) -> np.ndarray:
        """Return the array, memory-mapped and read-only: uint8 (N, side, side, 3)."""
        count = sum(block.rows for block in blocks)
        if not count:
            return np.empty((0, side, side, 3), np.uint8)
        return np.memmap(self.folder / PIXELS, np.uint8, "r", shape=(count, side, side, 3))


def _line(block: Block) -> bytes:
    return json.dumps(asdict(block)).encode() + b"\n"


def _block(found: dict[str, Any]) -> Block:
    block = Block(**found)
    for number in (block.images, block.rows, block.training, *block.sums, *block.squares):
        if type(number) is not int or number < 0:
            raise ValueError(f"{number!r} in a block")
    return block
