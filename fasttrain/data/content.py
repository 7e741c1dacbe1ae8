"""Opens whatever holds one image, and makes its prepared pixels: a file, bytes, an array, Pillow's.

Predicting takes all of them, and none may get other pixels than a file of training does.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import OutOfMemory, UsageError, shown
from . import pictures
from .crew import Budget
from .files import Files
from .found import Source
from .pictures import Unusable
from .preprocessing import Preprocessing

FILES = Files(Path())  # of any path, as it is given
SHAPES = "(H, W), (H, W, 3) or (H, W, 4)"


class Stored(NamedTuple):
    """An image that `source` has at `path`."""

    source: Source
    path: str


Content = Stored | bytes | np.ndarray | Image.Image
"""One image: in a file, encoded, as uint8 pixels (H, W), (H, W, 3) or (H, W, 4), or as Pillow's."""


def of_file(path: str) -> Stored:
    """The image in the file at `path`."""
    return Stored(FILES, path)


def check(content: object) -> Content:
    """`content`, if it can be an image; UsageError, with what it is, if not."""
    if isinstance(content, np.ndarray):
        shape = content.shape
        fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
        if content.dtype != np.uint8 or not fits or not content.size:
            said = f"{content.dtype} {shape}"
            raise UsageError(f"image ({said}): an array must be uint8 {SHAPES}. Convert it.")
    elif not isinstance(content, Stored | bytes | Image.Image):
        said = shown(type(content).__name__)
        raise UsageError(
            f"image ({said}): must be a path, the bytes of a file, a uint8 array {SHAPES} or an "
            "image of Pillow. Convert it."
        )
    return content


@contextmanager
def opened(content: Content) -> Iterator[Image.Image]:
    """The image in `content`, not decoded yet; Unusable, with the reason, if there is none."""
    if isinstance(content, Stored):
        with content.source.open(content.path) as file:
            yield content.source.image(file)
    elif isinstance(content, bytes):
        yield pictures.opened(io.BytesIO(content))
    elif isinstance(content, np.ndarray):
        yield Image.fromarray(content)
    else:
        yield content


def pixels(
    content: Content, preprocessing: Preprocessing, *, budget: Budget | None = None
) -> np.ndarray | str:
    """The prepared pixels, uint8 (side, side, 3), of one image, or why it cannot be used.

    Safe in threads, which share a `budget` of pixels decoded at a time.
    """
    try:
        with opened(content) as image:
            if budget is None:
                return preprocessing.pixels(image)
            with budget.taking(image.width * image.height):
                return preprocessing.pixels(image)
    except Unusable as error:
        return str(error)
    except MemoryError:
        raise OutOfMemory("an image: no memory to decode it. End other programs.") from None
