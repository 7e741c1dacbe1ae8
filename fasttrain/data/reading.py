"""What is done to a few image files at a time: read and hashed, or decoded and made small.

The same functions work in this process and in worker processes, so they take and return what
pickles cheaply, and import no NumPy.
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
    """An image to decode: SHA-256 of the file's bytes, upright size in pixels."""

    path: str
    sha256: str
    height: int
    width: int


def facts(source: Source, paths: Sequence[str]) -> list[Facts | str]:
    """What each file holds, or why it cannot be used."""
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
    """The pixels of the images that can be decoded, one after another, each side * side * 3 bytes;
    and by their places why the others cannot be.

    Raises DataError if a file is no longer what it was, OutOfMemory.
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
                raise OSError("its bytes are not those of a moment ago")
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
            f"{one.path} ({one.width} x {one.height}): no memory to decode it. End other "
            "programs, or take the image out."
        ) from None


def sha256_of(file: BinaryIO) -> str:
    """SHA-256 of a file from its start; the file stands at its start again."""
    digest = hashlib.sha256()
    while data := file.read(CHUNK):
        digest.update(data)
    file.seek(0)
    return digest.hexdigest()
