"""Cuts every epoch into chunks and batches: what the loaders here have in common.

Augmenting several batches in one call makes the fixed cost of a call small, and counting epochs and
steps in one place lets a run go on from any step with either loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from ..data import Batch, Split
from ..errors import UsageError
from . import contract
from .draws import SIDE, Draws

Chunk = Callable[[int, int], Tensor]
"""(start, stop) of an epoch's images -> their pixels (stop - start, 32, 32, 3), normalised."""
Channels = Sequence[float] | np.ndarray | Tensor
"""Three numbers, of red, green and blue."""
MOST = 2**31 - 1  # images a batch or a chunk

# Images augmented in one call. On 2 cores DALI gave 71,000 images/s with 256 and 52,000 with 1,024,
# whose 12 MB of floats leave the L2 cache between its operators (AMD EPYC, n = 4, noisy).
CHUNK = {"cpu": 256, "cuda": 2048}


class Chunked:
    """A Loader whose subclass makes the pixels of one chunk, several whole batches, at a time.

    `draws` maps an epoch (from 1) to its Draw; an epoch is as long as the order of the first. The
    last, shorter batch is left out with `drop_last`. Raises UsageError where that leaves no batch,
    or for arrays, draws or settings that are not what contract.py says.
    """

    def __init__(
        self,
        split: Split,
        draws: Draws,
        *,
        batch_size: int,
        device: torch.device | str,
        mean: Channels,
        std: Channels,
        hole: int,
        drop_last: bool,
        reflect: bool,
        dtype: torch.dtype,
        chunk: int | None,
    ) -> None:
        self.device = contract.device(device)
        self._split = contract.split(split)
        self._mean, self._std = contract.channels(mean, std)
        self._hole = contract.count("hole", hole, low=0, high=SIDE)
        self._reflect, self._dtype = bool(reflect), contract.floats(dtype)
        batch_size = contract.count("batch size", batch_size, low=1, high=MOST)
        # The epoch being read, and those that a prefetching loader already reaches into.
        checked = partial(contract.drawn, draws, len(self._split.labels), self._reflect)
        self._draws: Draws = lru_cache(maxsize=4)(checked)
        self._batch_size = batch_size
        count = len(self._draws(1).order)
        self._length = (count if drop_last else count + batch_size - 1) // batch_size
        if self._length == 0:
            raise UsageError(
                f"batch size ({batch_size}): an epoch has {count} images, not one batch. "
                "Choose a smaller --batch-size or more images."
            )
        self._shown = min(count, self._length * batch_size)
        most = CHUNK[self.device.type] if chunk is None else chunk
        chunk = contract.count("chunk", most, low=1, high=MOST)
        self._stride = max(1, chunk // batch_size) * batch_size
        self._place = (1, 0)

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        return self._length

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make the next iteration yield `epoch` (from 1) from batch `step` (from 0) on."""
        if epoch < 1 or not 0 <= step <= self._length:
            raise ValueError(f"seek({epoch}, {step}): epochs start at 1, of {self._length} steps")
        self._place = (epoch, step)

    def __iter__(self) -> Iterator[Batch]:
        """Begin the next epoch, however far the last one was read."""
        epoch, step = self._place
        self._place = (epoch + 1, 0)
        return self._batches(epoch, step)

    def _batches(self, epoch: int, step: int) -> Iterator[Batch]:
        first = step * self._batch_size
        if first >= self._shown:
            return
        order = self._draws(epoch).order[: self._shown]
        if len(order) < self._shown:
            raise UsageError(
                f"draws (epoch {epoch}): an epoch of {len(order)} images after a first one of "
                f"{self._shown} or more. Let all be as long."
            )
        labels = upload(self._split.labels[order], self.device)
        pixels = self._begin(epoch)
        for start in range(first - first % self._stride, self._shown, self._stride):
            stop = min(start + self._stride, self._shown)
            images = pixels(start, stop).permute(0, 3, 1, 2)  # NHWC already is channels_last
            for left in range(max(start, first), stop, self._batch_size):
                right = min(left + self._batch_size, stop)
                yield Batch(images[left - start : right - start], labels[left:right])

    def _begin(self, epoch: int) -> Chunk:
        """Make ready for `epoch`; return what gives the pixels of its chunks."""
        raise NotImplementedError


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` on `device`, without making the host wait for a CUDA device's queue."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
