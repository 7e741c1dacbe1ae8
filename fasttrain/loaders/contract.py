"""Checks the arrays, draws and settings that a user gives to a loader.

Without these checks a wrong shape or dtype would silently train on wrong pixels, or raise an
unclear error far from its cause. The batches of a user's own loader are checked in batches.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Split
from ..errors import UsageError, shown
from ..machine import auto
from .draws import Draw, Draws, WarpedDraw

PIXELS = "uint8 (N, S, S, 3), square images of one side, RGB from 0 to 255"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def device(given: torch.device | str) -> torch.device:
    """Return the device `given`; EnvironmentProblem unless fasttrain can use it."""
    try:
        found = torch.device(given)
    except (RuntimeError, TypeError):
        return auto.device(str(given))
    return found if found.type == "cuda" else auto.device(str(found))


def split(given: Split) -> Split:
    """Return `given` as numpy arrays, images not copied; UsageError unless it is a Split."""
    try:
        images, labels = (np.asarray(half) for half in given)
    except (TypeError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(
            f"split ({type(given).__name__}): not two arrays ({why}). Give Split(images, labels)."
        ) from None
    height, width, colours = images.shape[1:] if images.ndim == 4 else (0, 0, 0)
    if images.dtype != np.uint8 or not 0 < height == width or colours != 3:
        raise refused("images", images, f"must be {PIXELS}. Convert them")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise refused("labels", labels, f"must be int64 ({len(images)},), one class per image")
    if labels.min(initial=0) < 0:
        raise refused("labels", labels, "must be 0 or more. Leave out images without a class")
    return Split(images, labels.astype(np.int64, copy=False))


def channels(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation as floats; UsageError unless each is three numbers in 0..1."""
    found = []
    for name, given, low in (("mean", mean, 0.0), ("std", std, np.nextafter(0.0, 1.0))):
        try:
            values = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.shape != (3,) or not (values >= low).all() or not (values <= 1).all():
            bounds = "0 to 1" if low == 0 else "above 0 to 1"
            raise UsageError(
                f"{name} ({shown(given, 80)}): must be three numbers from {bounds}, of pixels in "
                "0..1. Divide numbers of bytes by 255."
            )
        found.append(tuple(values.tolist()))
    return found[0], found[1]


def count(name: str, given: Any, *, low: int, high: int) -> int:
    """Return `given` as an int; UsageError unless it is a whole number from `low` to `high`."""
    try:
        value = given.__index__()
    except (AttributeError, TypeError):
        value = None
    if value is None or isinstance(given, (bool, np.bool_)) or not low <= value <= high:
        raise UsageError(
            f"{name} ({shown(given)}): must be a whole number from {low} to {high}. Give one."
        )
    return value


def floats(given: Any) -> torch.dtype:
    """Return `given`, the dtype of images; UsageError unless it is one of FLOATS."""
    if given not in FLOATS:
        known = ", ".join(str(kind) for kind in FLOATS)
        raise UsageError(f"dtype ({shown(given)}): must be one of {known}. Choose one of them.")
    return given


# Of each field of a draw: the kinds of numbers, and the shape beside the images.
FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "order": ("iu", ()),
    "crop": ("iu", (2,)),
    "flip": ("b", ()),
    "hole": ("iu", (2,)),
    "affine": ("f", (2, 3)),
    "colour": ("f", (3, 4)),
}
NUMBERS = {"iu": "whole numbers", "b": "bool", "f": "finite numbers below a million"}


def drawn(draws: Draws, images: np.ndarray, reflect: bool, epoch: int) -> Draw | WarpedDraw:
    """Return `draws(epoch)`; UsageError unless it is a draw for `images` (N, S, S, 3)."""
    draw, count, side = draws(epoch), *images.shape[:2]
    if not isinstance(draw, (Draw, WarpedDraw)):
        raise UsageError(f"draws ({type(draw).__name__}): must give a draws.Draw. See draws.draw.")
    rows = np.shape(draw.order)[:1]
    for name, given in draw._asdict().items():
        if name == "colour" and given is None:
            continue
        array, (kinds, beside) = np.asarray(given), FIELDS[name]
        shape = (*rows, *beside)
        enough = rows and len(array.shape) == len(shape) and array.shape[0] >= rows[0]
        fits = enough and array.shape[1:] == shape[1:]  # the order's length is the epoch's
        fits = fits and array.dtype.kind in kinds
        if array is not given or not fits or not _is_small(array):
            why = f"must be {NUMBERS[kinds]} {shape}"
            raise refused(f"draws, {name} of epoch {epoch}", array, f"{why}. See draws.Draw")
    if draw.order.min(initial=0) < 0 or draw.order.max(initial=-1) >= count:
        why = f"must be from 0 to {count - 1}, as the split has {count} images"
        raise refused(f"draws, order of epoch {epoch}", draw.order, f"{why}. Draw with that count")
    if isinstance(draw, Draw) and reflect and np.abs(draw.crop).max(initial=0) >= side:
        why = f"must lie inside -{side}..{side}, the width of a mirrored border"
        raise refused(f"draws, crop of epoch {epoch}", draw.crop, f"{why}. Use less padding")
    return draw


def _is_small(array: np.ndarray) -> bool:
    """Whether all numbers of a matrix are finite and below a million; false with nan."""
    return array.dtype.kind != "f" or bool((np.abs(array) < 1e6).all())


def refused(name: str, array: Any, why: str) -> UsageError:
    """Return the UsageError for an array or tensor, with its dtype, shape and range."""
    kind = str(array.dtype).removeprefix("torch.")
    text = f"{kind} {tuple(array.shape)}"
    plain = not array.is_complex() if isinstance(array, Tensor) else array.dtype.kind in "biuf"
    if plain and 0 not in array.shape:
        text += f", {float(array.min()):g} to {float(array.max()):g}"
    return UsageError(f"{name} ({text}): {why}.")
