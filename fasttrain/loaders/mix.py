"""MixUp and CutMix: each image of a batch is mixed with its neighbour there, on the device.

Shares and boxes are drawn with the epoch, and mixed into the batches that a loader has made, so
that every loader gives the same pixels, resume is exact and several processes mix as one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import Batch, Loader
from .chunked import upload
from .draws import rows_of, streams


class Mix(NamedTuple):
    """How the images of an epoch are mixed; row i belongs to the i-th image shown.

    own: float32 (N,), the image's share of its target; the rest is its partner's.
    inside: float32 (N,), the image's share of its pixels inside the box; outside it is 1.
    box: int32 (N, 4), top, left, bottom and right of the box; bottom and right are outside it.
    """

    own: np.ndarray
    inside: np.ndarray
    box: np.ndarray


def draw_mix(
    epoch: int, *, seed: int, count: int, side: int, mixup: float = 0.0, cutmix: float = 0.0
) -> Mix:
    """Draw how `count` images of `side` x `side` pixels are mixed in `epoch`, each by itself.

    MixUp (arXiv 1710.09412) takes a share of Beta(mixup, mixup) of all pixels. CutMix (arXiv
    1905.04899) draws a share of Beta(cutmix, cutmix) and puts a square of the partner of 1 - share
    of the area about a uniform place; what leaves the image is cut off, and the image's share of
    the target is that of the pixels left. Where both are above 0, each image takes one of them by
    the toss of a coin, as in timm's mode "elem".
    """
    of = streams(seed, epoch)
    shares = of["mixup"].beta(mixup, mixup, count) if mixup else np.ones(count)
    own, inside = shares.astype(np.float32), shares.astype(np.float32)
    box = np.tile(np.array([0, 0, side, side], np.int32), (count, 1))
    if cutmix:
        cut = of["mixing"].random(count) < (0.5 if mixup else 1.0)
        boxes = _boxes(of["cutmix"].beta(cutmix, cutmix, count), side, of["box"])
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        own = np.where(cut, np.float32(1) - area.astype(np.float32) / side**2, own)
        inside = np.where(cut, np.float32(0), inside)
        box = np.where(cut[:, None], boxes, box)
    return Mix(own.astype(np.float32), inside, box)


def _boxes(shares: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    """The boxes of CutMix, int32 (N, 4), by timm's formula."""
    half = (side * np.sqrt(1 - shares)).astype(np.int32)[:, None] // 2
    centre = random.integers(0, side, size=(len(shares), 2), dtype=np.int32)
    return np.concatenate([centre - half, centre + half], axis=1).clip(0, side)


def shard(whole: Mix, rank: int, world: int, batch_size: int) -> Mix:
    """The part of process `rank` of `world`, as draws.shard cuts the images."""
    if world == 1:
        return whole
    rows = rows_of(len(whole.own), rank, world, batch_size)
    return Mix(*(field[rows] for field in whole))


class MixedLoader:
    """The batches of `loader` as `mixes(epoch)` mixes them; labels become shares (B, classes).

    `batch_size` is that of all batches of `loader`, images of this process alone. By
    `mixed_classes` others know that labels are shares, and of how many classes.
    """

    def __init__(
        self, loader: Loader, mixes: Callable[[int], Mix], *, batch_size: int, classes: int
    ) -> None:
        self._loader, self._mixes = loader, mixes
        self._batch_size, self.mixed_classes = batch_size, classes
        self._place = (1, 0)

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        return len(self._loader)

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make the next iteration yield `epoch` (from 1) from batch `step` (from 0) on."""
        self._loader.seek(epoch, step)
        self._place = (epoch, step)

    def __iter__(self) -> Iterator[Batch]:
        """Begin the next epoch, even if the last one was not read to its end."""
        epoch, step = self._place
        self._place = (epoch + 1, 0)
        return self._batches(iter(self._loader), epoch, step)

    def _batches(self, batches: Iterator[Batch], epoch: int, step: int) -> Iterator[Batch]:
        here: list[Tensor] = []
        for number, (images, labels) in enumerate(batches, step):
            here = here or [upload(field, images.device) for field in self._mixes(epoch)]
            rows = slice(number * self._batch_size, (number + 1) * self._batch_size)
            shares = (field[rows] for field in here)
            yield mixed(images, labels, *shares, classes=self.mixed_classes)


def mixed(
    images: Tensor, labels: Tensor, own: Tensor, inside: Tensor, box: Tensor, *, classes: int
) -> Batch:
    """Mix each image and label with its partner's; own and inside (B,), box (B, 4).

    The partner of image i is i + 1 for an even i, i - 1 for an odd one, and the last image of an
    odd batch has itself: a share of a batch with an even number of images holds all its partners.
    Labels become float32 (B, classes). It makes no draw and does not wait for the device.
    """
    count, side = len(images), images.shape[2]
    partner = (torch.arange(count, device=images.device) ^ 1).clamp(max=count - 1)
    at = torch.arange(side, device=images.device)
    rows, columns = (
        (at >= box[:, axis : axis + 1]) & (at < box[:, axis + 2 : axis + 3]) for axis in (0, 1)
    )
    is_inside = rows[:, :, None] & columns[:, None, :]
    share = torch.where(is_inside, inside[:, None, None], 1.0)[..., None].to(images.dtype)
    pixels = images.permute(0, 2, 3, 1)
    pixels = torch.lerp(pixels[partner], pixels, share)
    of = (labels[:, None] == torch.arange(classes, device=labels.device)).float()
    targets = of * own[:, None] + of[partner] * (1 - own[:, None])
    return Batch(pixels.permute(0, 3, 1, 2), targets)
