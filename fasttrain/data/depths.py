"""Scales images of 16 bits or of floats to 8 bits.

Apart from the other modes, since it is all that needs NumPy there.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .pictures import Unusable


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of mode I, I;16 or F in mode L, rounded; Unusable for values outside the range."""
    values = np.asarray(image)
    return Image.fromarray(_of_floats(values) if image.mode == "F" else _of_integers(values))


def _of_integers(values: np.ndarray) -> np.ndarray:
    """0..65535 to 0..255, rounded; Unusable for integers outside."""
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise Unusable("integers outside 0 to 65,535")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


def _of_floats(values: np.ndarray) -> np.ndarray:
    """0..1, or else 0..255, to 0..255, rounded; Unusable for numbers outside."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # also where one is not a number
        raise Unusable("numbers outside 0 to 255")
    return np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
