"""Checks a user's arrays, draws and batches once, when they enter fasttrain.

Without these checks a wrong shape or dtype would silently train on wrong pixels, or raise an
unclear error far from its cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Batch, Split
from ..errors import DataError, UsageError, shown
from ..machine import auto
from .draws import Draw, Draws

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
        raise _refused("images", images, f"must be {PIXELS}. Convert them")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise _refused("labels", labels, f"must be int64 ({len(images)},), one class per image")
    if labels.min(initial=0) < 0:
        raise _refused("labels", labels, "must be 0 or more. Leave out images without a class")
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


def drawn(draws: Draws, images: np.ndarray, reflect: bool, epoch: int) -> Draw:
    """Return `draws(epoch)`; UsageError unless it is a Draw for `images` (N, S, S, 3)."""
    draw, count, side = draws(epoch), *images.shape[:2]
    if not isinstance(draw, Draw):
        raise UsageError(f"draws ({type(draw).__name__}): must give a draws.Draw. See draws.draw.")
    rows = np.shape(draw.order)[:1]
    expected = {"order": ("iu", rows), "crop": ("iu", (*rows, 2)), "flip": ("b", rows)}
    expected["hole"] = ("iu", (*rows, 2))
    for (name, (kinds, shape)), given in zip(expected.items(), draw, strict=True):
        array = np.asarray(given)
        enough = rows and len(array.shape) == len(shape) and array.shape[0] >= rows[0]
        fits = enough and array.shape[1:] == shape[1:]  # the order's length is the epoch's
        if array is not given or array.dtype.kind not in kinds or not fits:
            why = f"must be {'bool' if kinds == 'b' else 'whole numbers'} {shape}"
            raise _refused(f"draws, {name} of epoch {epoch}", array, f"{why}. See draws.Draw")
    if draw.order.min(initial=0) < 0 or draw.order.max(initial=-1) >= count:
        why = f"must be from 0 to {count - 1}, as the split has {count} images"
        raise _refused(f"draws, order of epoch {epoch}", draw.order, f"{why}. Draw with that count")
    if reflect and np.abs(draw.crop).max(initial=0) >= side:
        why = f"must lie inside -{side}..{side}, the width of a mirrored border"
        raise _refused(f"draws, crop of epoch {epoch}", draw.crop, f"{why}. Use less padding")
    return draw


def batches(
    loader: Iterable[Any], step: Any, where: str, *, begun: bool = False
) -> Iterator[Batch]:
    """Yield the batches of an epoch; check the first against the model of `step`: shape, dtype,
    device, and values on the host. UsageError for a wrong batch; DataError, naming `where`, for
    an epoch without images, unless the epoch has already `begun`."""
    try:
        given = iter(loader)
    except TypeError:
        raise UsageError(
            f"{where} ({type(loader).__name__}): cannot be iterated. Give batches of (images, "
            "labels)."
        ) from None
    first = next(given, None)
    if first is None:
        if not begun:
            raise _empty(where, "0 batches", once=given is loader)
        return
    images, labels = _pair(first, where)
    _check_images(images, labels, step, where)
    _check_labels(images, labels, where)
    yield Batch(images, labels)
    yield from given


def _pair(batch: Any, where: str) -> tuple[Tensor, Tensor]:
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not all(isinstance(part, Tensor) for part in batch):
        parts = batch if isinstance(batch, (tuple, list)) else [batch]
        kinds = ", ".join(type(part).__name__ for part in parts[:4])
        raise UsageError(
            f"{where}, first batch ({kinds}): must be two tensors, images and labels. "
            "Let the loader yield both."
        )
    return batch[0], batch[1]


def _check_images(images: Tensor, labels: Tensor, step: Any, where: str) -> None:
    model: nn.Module = step.model
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    takes = {weight.dtype for weight in weights} or set(FLOATS)
    takes |= set(FLOATS) if getattr(step, "amp", None) is not None else set()
    what = f"{where}, images of the first batch"
    if images.ndim != 4 or (images.shape[3] in (1, 3) and images.shape[1] > 4):
        raise _refused(what, images, "must be (B, channels, height, width). Permute them")
    if images.dtype not in takes:
        kinds = " or ".join(sorted(str(kind) for kind in takes))
        raise _refused(what, images, f"must be {kinds}, normalised. Convert them")
    if not len(images):
        raise _empty(where, "0 images in its first batch", once=False)
    for name, tensor in (("images", images), ("labels", labels)):
        if weights and tensor.device != weights[0].device:
            raise UsageError(
                f"{where}, {name} of the first batch ({tensor.device}): the model is on "
                f"{weights[0].device}. Move them there."
            )


def _check_labels(images: Tensor, labels: Tensor, where: str) -> None:
    what = f"{where}, labels of the first batch"
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise _refused(what, labels, f"must be int64 ({len(images)},), one class per image")
    if labels.device.type == "cpu" and int(labels.min()) < 0:
        raise _refused(what, labels, "must be 0 or more. Leave out images without a class")


def _empty(where: str, what: str, *, once: bool) -> DataError:
    if once:
        why = "a generator or an iterator can be read once, and this one has been"
        return DataError(
            f"{where} ({what}): an epoch of no images; {why}. Give a list, or a loader that begins "
            "anew at each iteration."
        )
    return DataError(f"{where} ({what}): an epoch of no images. Give the loader some.")


def _refused(name: str, array: Any, why: str) -> UsageError:
    """Return the UsageError for an array or tensor, with its dtype, shape and range."""
    kind = str(array.dtype).removeprefix("torch.")
    text = f"{kind} {tuple(array.shape)}"
    plain = not array.is_complex() if isinstance(array, Tensor) else array.dtype.kind in "biuf"
    if plain and 0 not in array.shape:
        text += f", {float(array.min()):g} to {float(array.max()):g}"
    return UsageError(f"{name} ({text}): {why}.")
