"""Rotation, zoom and changes of colour, drawn as one affine and one colour matrix for each image.

They are added to the draw of crops, flips and holes. An epoch without them never comes here: its
images are cropped by whole pixels, as ever.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .draws import Draw, WarpedDraw, streams

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601's luma, as in Pillow, torchvision and albumentations
MIDDLE = 127.5  # of 0..255: contrast turns about it, as in DALI (128) and fastai


def warp(
    plain: Callable[[int], Draw],
    epoch: int,
    *,
    seed: int,
    side: int,
    rotate: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
) -> WarpedDraw:
    """Draw the rotation, zoom and colours of the images of side `side` that `plain(epoch)` shows.

    Each is uniform for each image: the angle within +-`rotate` degrees, the zoom between its two
    ends (2 shows half of the width and height), the factors of brightness, contrast and saturation
    within 1 +- their value. Each has its own generator.
    """
    drawn, of = plain(epoch), streams(seed, epoch)
    count = len(drawn.order)
    angle = of["angle"].uniform(-rotate, rotate, count)
    factor = of["zoom"].uniform(*zoom, count)
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    factors = {name: of[name].uniform(1 - v, 1 + v, count) for name, v in strengths.items()}
    return WarpedDraw(
        order=drawn.order,
        affine=affine(drawn.crop, drawn.flip, side=side, angle=angle, zoom=factor),
        colour=colour(**factors) if any(strengths.values()) else None,
        hole=drawn.hole,
    )


def affine(
    crop: np.ndarray, flip: np.ndarray, *, side: int, angle: np.ndarray, zoom: np.ndarray
) -> np.ndarray:
    """Where each pixel shown lies in its image, float32 (N, 2, 3) for images of `side` pixels.

    The image is turned by `angle` degrees, counter-clockwise, and enlarged by `zoom`, both about
    its centre c = (side - 1) / 2, then cropped, then flipped:

        (x, y) = [[cos, -sin], [sin, cos]] / zoom ((x', y) + (left, top) - c) + c

    where x' is side - 1 - x if flipped, else x. `crop` is (N, 2), top and left.
    """
    centre = (side - 1) / 2
    turn = np.deg2rad(angle)
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    mirror = np.where(flip, -1.0, 1.0)
    left = np.where(flip, side - 1.0, 0.0) + crop[:, 1] - centre
    top = crop[:, 0] - centre
    rows = [
        [cos * mirror, -sin, cos * left - sin * top + centre],
        [sin * mirror, cos, sin * left + cos * top + centre],
    ]
    return np.moveaxis(np.array(rows), 2, 0).astype(np.float32, order="C")


def colour(brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation, in this order, as float32 (N, 3, 4) for bytes.

        brightness b: v -> b v
        contrast c:   v -> c (v - 127.5) + 127.5
        saturation s: v -> s v + (1 - s) (0.299 red + 0.587 green + 0.114 blue)

    Nothing is cut off in between. torchvision and albumentations cut off after each one, and take
    the image's mean grey where 127.5 stands; a draw does not look at the pixels.
    """
    scale = (brightness * contrast)[:, None, None]
    grey = np.broadcast_to(GREY, (3, 3))
    mixed = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    shift = np.broadcast_to(((1 - contrast) * MIDDLE)[:, None, None], (len(contrast), 3, 1))
    return np.concatenate([scale * mixed, shift], axis=2).astype(np.float32)


def reach(affine: np.ndarray, side: int) -> int:
    """How many pixels outside their images the pixels shown lie at most, rounded up."""
    ends = np.array([[x, y, 1] for x in (0, side - 1) for y in (0, side - 1)], np.float64)
    at = affine.astype(np.float64) @ ends.T
    return int(np.ceil(np.maximum(-at, at - (side - 1)).max(initial=0.0)))
