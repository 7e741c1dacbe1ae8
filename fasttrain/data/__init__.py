"""The types of a data set and a batch, and the interface of every loader.

They are separate from the loaders, so that neither a loader nor the loop imports another loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .listing import Listing

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Split(NamedTuple):
    """One part of a data set: `images` uint8 (N, S, S, 3) RGB, `labels` int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Statistics(NamedTuple):
    """Mean and standard deviation of red, green and blue, of pixels in 0..1: the normalisation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Data(NamedTuple):
    """A data set: its splits, the names of its classes by number, and the mean and deviation per
    channel, of pixels in 0..1, that its images are normalised with.

    `val` chooses the best epoch and `test` is evaluated once, at the end; without `val`, `test`
    does both. `listing` is of own images. `verify` checks pixels that were opened unchecked.
    """

    train: Split
    test: Split
    val: Split | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    listing: Listing | None
    verify: Callable[[], None] | None = None

    @property
    def statistics(self) -> Statistics:
        """The normalisation of the images."""
        return Statistics(self.mean, self.std)

    @property
    def side(self) -> int:
        """Pixels along an image."""
        return self.train.images.shape[1]

    @property
    def chooses(self) -> str:
        """The name of the split that the schedule and the best epoch go by: val or test."""
        only_val = self.listing is not None and "test" not in self.listing.splits
        return "val" if self.val is not None or only_val else "test"

    @property
    def held_out(self) -> Split:
        """The split that `chooses` names."""
        return self.test if self.val is None else self.val


class Batch(NamedTuple):
    """A step's input: `images` float (B, 3, S, S) channels_last, normalised; `labels` (B,).

    Mixed images have float32 labels (B, classes), the share of each class.
    """

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
