"""CIFAR-100 from its binary archive: --data-dir, the user's cache, or its authors' server.

Its records have a coarse and a fine label; training uses the fine one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import Split, cache, kept
from .archive import Remote
from .fetch import Bar, Log, no_bar

NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(NAMES.split())
# Of the 50,000 training images, in 0..1.
MEAN = (0.5071, 0.4865, 0.4409)
STD = (0.2673, 0.2564, 0.2762)
BINARY = "cifar-100-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{BINARY}"
# Its MD5, as its authors give it, is 03b5dce01913d631647c71ecec9e9cb8.
KNOWN = {
    BINARY: (168_513_733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
}
INSIDE = "cifar-100-binary"
LABELS, PIXELS = 2, 3 * 32 * 32  # bytes of a record: coarse and fine, then red, green and blue
RECORD = LABELS + PIXELS
DIGESTS: kept.Digests = {
    "train.bin": (
        50_000 * RECORD,
        "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
    ),
    "test.bin": (
        10_000 * RECORD,
        "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
    ),
}


def load(
    data_dir: Path | None = None,
    *,
    log: Log = lambda line: None,
    bar: Bar = no_bar,
    folder: Path | None = None,
) -> tuple[Split, Split]:
    """Return 50,000 training and 10,000 test images with their fine labels, as `cifar10.load`
    does."""
    files = kept.load(
        Remote("CIFAR-100", URL, BINARY, "", "", KNOWN),
        DIGESTS,
        inside=INSIDE,
        data_dir=data_dir,
        folder=cache.default_folder("cifar100") if folder is None else folder,
        log=log,
        bar=bar,
    )
    return _split(files.pop("train.bin")), _split(files.pop("test.bin"))


def _split(data: bytes) -> Split:
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    planes = records[:, LABELS:].reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    split = Split(images, records[:, 1].astype(np.int64))
    for array in split:
        array.flags.writeable = False
    return split
