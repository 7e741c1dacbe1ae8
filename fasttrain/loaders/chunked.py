"""The base class of the loaders: cuts every epoch into chunks, and chunks into batches.

Augmenting several batches in one call makes the fixed cost of a call small. Because epochs and
steps are counted here, a run can resume at any step with any loader.
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
"""(start, stop) of an epoch's images -> their pixels (stop - start, S, S, 3), normalised."""
Channels = Sequence[float] | np.ndarray | Tensor
"""Three numbers: red, green, blue."""
MOST = 2**31 - 1  # images per batch or chunk

# Images of 32x32 pixels augmented in one call; larger images are fewer, with as many pixels. On 2
# cores DALI gave 71,000 images/s with 256 and 52,000 with 1,024, whose 12 MB of floats do not stay
# in the L2 cache between its operators (AMD EPYC, n = 4, noisy).
CHUNK = {"cpu": 256, "cuda": 2048}


class Chunked:
    """A Loader whose subclass makes the pixels of one chunk, several whole batches, at a time.

    `draws` maps an epoch (from 1) to its draw; the order of epoch 1 sets the length of all epochs.
    `drop_last` leaves out a shorter last batch. Raises UsageError if that leaves no batch, and for
    arrays, draws or settings that contract.py refuses.
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
        self._side = self._split.images.shape[1]
        self._hole = contract.count("hole", hole, low=0, high=self._side)
        self._reflect, self._dtype = bool(reflect), contract.floats(dtype)
        batch_size = contract.count("batch size", batch_size, low=1, high=MOST)
        # The epoch being read, and the next ones, which a prefetching loader already needs.
        checked = partial(contract.drawn, draws, self._split.images, self._reflect)
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
        most = chunk_of(self._side, self.device) if chunk is None else chunk
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
        """Begin the next epoch, even if the last one was not read to its end."""
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
        """Prepare `epoch`; return the function that makes the pixels of its chunks."""
        raise NotImplementedError


def chunk_of(side: int, device: torch.device) -> int:
    """Images augmented in one call: as many pixels as CHUNK images of 32x32 have."""
    return max(1, CHUNK[device.type] * SIDE**2 // side**2)


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy `array` to `device` without waiting for a CUDA device's queue."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
