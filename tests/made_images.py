"""Pictures on the disk for tests: small, different from one another, the same at every call."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fasttrain.data import layouts, prepare, scan


def picture(number=0, *, height=20, width=20, mode="RGB"):
    """A picture that no other number has."""
    random = np.random.default_rng(number)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def save(path, number=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, **options).save(path)
    return path


def folder(root, classes, *, count=4, start=0, **options):
    """`count` PNGs in a folder for each class."""
    for place, name in enumerate(classes):
        for number in range(count):
            save(root / name / f"{number}.png", start + 1000 * place + number, **options)
    return root


def listing_of(path, **options):
    found = layouts.find(path)
    return scan.scan(found, **options), found.source


def prepared(path, cache, *, side=16, **options):
    listing, source = listing_of(path, folder=cache)
    return prepare.prepare(listing, source, side=side, folder=cache, **options)
