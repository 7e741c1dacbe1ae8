"""Checks the first batch of each epoch of a loader, which may be a user's own.

The other batches of an epoch are not checked: that would cost time in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Batch
from ..errors import DataError, UsageError
from .contract import FLOATS, refused


def checked(
    loader: Iterable[Any], step: Any, where: str, *, begun: bool = False
) -> Iterator[Batch]:
    """Yield the batches of an epoch; check the first one against the model of `step`.

    It checks shape, dtype, device and, on the host, values. Raises UsageError for a wrong batch;
    DataError, naming `where`, for an epoch without images unless it has already `begun`.
    A loader with `mixed_classes` mixes so many; its labels are float32 (B, classes).
    """
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
    _check_labels(images, labels, where, getattr(loader, "mixed_classes", None))
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
        raise refused(what, images, "must be (B, channels, height, width). Permute them")
    if images.dtype not in takes:
        kinds = " or ".join(sorted(str(kind) for kind in takes))
        raise refused(what, images, f"must be {kinds}, normalised. Convert them")
    if not len(images):
        raise _empty(where, "0 images in its first batch", once=False)
    for name, tensor in (("images", images), ("labels", labels)):
        if weights and tensor.device != weights[0].device:
            raise UsageError(
                f"{where}, {name} of the first batch ({tensor.device}): the model is on "
                f"{weights[0].device}. Move them there."
            )


def _check_labels(images: Tensor, labels: Tensor, where: str, classes: int | None) -> None:
    what = f"{where}, labels of the first batch"
    if classes is not None:
        if labels.dtype != torch.float32 or labels.shape != (len(images), classes):
            raise refused(what, labels, f"must be float32 ({len(images)}, {classes}), shares")
        return
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise refused(what, labels, f"must be int64 ({len(images)},), one class per image")
    if labels.device.type == "cpu" and int(labels.min()) < 0:
        raise refused(what, labels, "must be 0 or more. Leave out images without a class")


def _empty(where: str, what: str, *, once: bool) -> DataError:
    if once:
        why = "a generator or an iterator can be read once, and this one has been"
        return DataError(
            f"{where} ({what}): an epoch of no images; {why}. Give a list, or a loader that begins "
            "anew at each iteration."
        )
    return DataError(f"{where} ({what}): an epoch of no images. Give the loader some.")
