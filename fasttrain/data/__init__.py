"""What a data set and a batch are, and what every loader promises.

Kept apart from the loaders so that none of them, nor the loop, has to import another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Split(NamedTuple):
    """One half of a data set: `images` uint8 (N, 32, 32, 3) RGB, `labels` int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Batch(NamedTuple):
    """What a step eats: `images` float (B, 3, 32, 32) channels_last, normalised; `labels` (B,)."""

    images: torch.Tensor
    labels: torch.Tensor


class Loader(Protocol):
    """Yields the Batches of one epoch each time it is iterated; the next iteration is the next
    epoch."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        ...

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make the next iteration yield `epoch` (counted from 1) from batch `step` (from 0) on."""
        ...
