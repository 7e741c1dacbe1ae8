"""Scales images of 16 bits or floats to 8 bits.

It works in parts, because 100 megapixels at once took 2 GB. It is separate from the other modes,
because only this needs NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from .pictures import Unusable

PART = 1 << 20  # pixels


def eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of mode I, I;16 or F in mode L, rounded.

    Integers are scaled from 0..65535, floats from 0..1 or else 0..255. Raises Unusable for values
    outside.
    """
    ends = np.array([(part.min(), part.max()) for _, part in _parts(image)])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    most = 255 if image.mode == "F" else 65535
    if not (low >= 0 and high <= most):  # also where one is not a number
        kind = "numbers" if image.mode == "F" else "integers"
        raise Unusable(f"{kind} outside 0 to {most:,}")
    found = Image.new("L", image.size)
    for corner, part in _parts(image):
        if image.mode == "F":
            small = np.rint(part * (255 if high <= 1 else 1))
        else:
            small = (part.astype(np.int64) * 255 + 32767) // 65535
        found.paste(Image.fromarray(small.astype(np.uint8)), corner)
    return found


def _parts(image: Image.Image) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield parts of at most PART pixels, each with its upper left corner."""
    width, height = image.size
    rows = max(1, PART // width)
    for top in range(0, height, rows):
        for left in range(0, width, PART):
            box = left, top, min(left + PART, width), min(top + rows, height)
            yield (left, top), np.asarray(image.crop(box))
