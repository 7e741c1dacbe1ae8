"""Reads a few image files at a time: their facts, or their pixels.

The same functions run in threads and in worker processes, so they take and return what pickles
cheaply, and do not import NumPy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ..errors import DataError, OutOfMemory
from . import pictures
from .pictures import Unusable, header

if TYPE_CHECKING:
    from .found import Source

CHUNK = 1 << 20
Facts = tuple[str, int, int, str, str]  # SHA-256, height, width, mode, note


class Wanted(NamedTuple):
    """An image to decode: its path, the SHA-256 of its bytes, and its upright size in pixels."""

    path: str
    sha256: str
    height: int
    width: int


def facts(source: Source, paths: Sequence[str]) -> list[Facts | str]:
    """Read files; return the facts of each, or the reason why it cannot be used."""
    return [_facts(source, path) for path in paths]


def _facts(source: Source, path: str) -> Facts | str:
    try:
        with source.open(path) as file:
            sha256 = sha256_of(file)
            return sha256, *header(source.image(file))
    except Unusable as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def small(
    source: Source, images: Sequence[Wanted], side: int, fit: str
) -> tuple[bytes, dict[int, str]]:
    """Decode images; return the pixels of the good ones, each side * side * 3 bytes, and for the
    others place -> reason.

    Raises DataError if a file has changed since it was scanned, OutOfMemory.
    """
    made, bad = [], {}
    for place, one in enumerate(images):
        found = _small(source, one, side, fit)
        if isinstance(found, bytes):
            made.append(found)
        else:
            bad[place] = found
    return b"".join(made), bad


def _small(source: Source, one: Wanted, side: int, fit: str) -> bytes | str:
    try:
        with source.open(one.path) as file:
            if sha256_of(file) != one.sha256:
                raise OSError("its content is not what was scanned")
            try:
                return pictures.small(source.image(file), side, fit=fit)
            except Unusable as error:
                return str(error)
    except (OSError, Unusable) as error:
        raise DataError(
            f"{one.path}: changed while the images were prepared ({error}). Start again."
        ) from None
    except MemoryError:
        raise OutOfMemory(
            f"{one.path} ({one.width} x {one.height}): not enough memory to decode it. Close "
            "other programs, or remove the image."
        ) from None


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a file from its start, and rewind the file."""
    digest = hashlib.sha256()
    while data := file.read(CHUNK):
        digest.update(data)
    file.seek(0)
    return digest.hexdigest()
