"""CIFAR-10 with 20 records per file, in both published formats, so that tests need no download."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import numpy as np

from fasttrain.data import decode

COUNT = 20  # records in a file


def _records(name):
    random = np.random.default_rng(len(name) + ord(name[-1]))
    made = random.integers(0, 256, (COUNT, decode.RECORD), dtype=np.uint8)
    made[:, 0] %= 10
    return made


BATCHES = {name: _records(name) for name in decode.NAMES}
DIGESTS = {name: hashlib.sha256(made.tobytes()).hexdigest() for name, made in BATCHES.items()}


def binary_files():
    return {f"{name}.bin": made.tobytes() for name, made in BATCHES.items()}


def package_files():
    from PIL import Image

    files = {}
    labels = {"train": [], "test": []}
    for name, made in BATCHES.items():
        labels["test" if name == "test_batch" else "train"] += made[:, 0].tolist()
        pixels = made[:, 1:].reshape(COUNT, 3, 1024).transpose(0, 2, 1)
        packed = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(packed, "PNG")
        files[f"{name}.png"] = packed.getvalue()
    for half, values in labels.items():
        files[decode.LABELS[half]] = json.dumps(values).encode()
    return files


def pack(path, files, folder="cifar-10-batches-bin"):
    with tarfile.open(path, "w:gz") as packed:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return path


def known(path):
    """Return a table of known archives with the one at `path`, if it exists."""
    data = path.read_bytes() if path.is_file() else b""
    return {path.name: (len(data), hashlib.sha256(data).hexdigest())}


def unpack(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def expect(found):
    """Compare train and test with the records, for some images pixel by pixel."""
    train, test = found
    whole = np.concatenate([BATCHES[name] for name in decode.NAMES[:-1]])
    assert train.images.shape == (5 * COUNT, 32, 32, 3)
    for i in (0, 7, 5 * COUNT - 1):  # planes of red, green, blue, each row by row
        for channel in range(3):
            plane = whole[i, 1 + 1024 * channel : 1 + 1024 * (channel + 1)].reshape(32, 32)
            assert (train.images[i, :, :, channel] == plane).all()
    assert train.labels.tolist() == whole[:, 0].tolist()
    assert test.labels.tolist() == BATCHES["test_batch"][:, 0].tolist()
    assert train.labels.dtype == np.int64
    assert train.images.dtype == np.uint8
