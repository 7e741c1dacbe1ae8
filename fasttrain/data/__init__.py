"""The types of a data set and a batch, and the interface of every loader.

They are separate from the loaders, so that neither a loader nor the loop imports another loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Split(NamedTuple):
    """One part of a data set: `images` uint8 (N, S, S, 3) RGB, `labels` int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Statistics(NamedTuple):
    """Mean and standard deviation of red, green and blue, of pixels in 0..1: the normalisation."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Data(NamedTuple):
    """A data set that is ready to train on; all splits have images of one side.

    `classes` are the names of the labels 0, 1, ... `val`, where there is one, decides which epoch
    is best; otherwise `test` does.
    """

    name: str
    train: Split
    test: Split
    val: Split | None
    classes: tuple[str, ...]
    statistics: Statistics

    @property
    def side(self) -> int:
        """Pixels along an image."""
        return int(self.train.images.shape[1])


class Batch(NamedTuple):
    """A step's input: `images` float (B, 3, S, S) channels_last, normalised; `labels` (B,)."""

    images: torch.Tensor
    labels: torch.Tensor


class Loader(Protocol):
    """An iterable of batches: each iteration yields the next epoch."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        ...

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make the next iteration start at batch `step` (from 0) of `epoch` (from 1)."""
        ...
