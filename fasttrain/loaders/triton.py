"""Loads batches from a split that stays on the GPU as bytes; one kernel makes each chunk.

Its pixels equal ResidentLoader's, but for those of a WarpedDraw, which are off by rounding. It
writes each number once; ResidentLoader reads and writes them several times in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import kernels

from ..data import Split
from ..errors import EnvironmentProblem
from . import contract
from .chunked import Channels
from .draws import Draws
from .resident import ResidentLoader


class KernelLoader(ResidentLoader):
    """Batches of `split`, augmented, normalised and cut out according to `draws`, on a GPU.

    The arguments are ResidentLoader's. Raises EnvironmentProblem without a CUDA device or triton,
    UsageError if an epoch has no whole batch.
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
        reflect: bool = False,
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
    ) -> None:
        found = kernels.problem(contract.device(device))
        if found:
            raise EnvironmentProblem(f"--loader (kernel): {found}. Use --loader resident.")
        super().__init__(
            split,
            draws,
            batch_size=batch_size,
            device=device,
            mean=mean,
            std=std,
            hole=hole,
            drop_last=drop_last,
            reflect=reflect,
            dtype=dtype,
            chunk=chunk,
        )
        self._byte_mean, self._byte_std = _of_bytes(self._mean), _of_bytes(self._std)

    def _pixels(
        self, order: Tensor, crop: Tensor, flip: Tensor, hole: Tensor, *, pad: int
    ) -> Tensor:
        from kernels.augment import augment_

        return self._filled(augment_, order, crop, flip, hole)

    def _warped_pixels(
        self, *, order: Tensor, affine: Tensor, hole: Tensor, colour: Tensor | None = None
    ) -> Tensor:
        from kernels.warp import warp_

        return self._filled(warp_, order, affine, colour, hole)

    def _filled(self, kernel: Callable[..., None], order: Tensor, *rows: Tensor | None) -> Tensor:
        """Images (B, S, S, 3) that a kernel makes by the rows of a draw."""
        shape = (len(order), self._side, self._side, 3)
        out = torch.empty(shape, dtype=self._dtype, device=self.device)
        kernel(
            out,
            self._images,
            order,
            *rows,
            mean=self._byte_mean,
            std=self._byte_std,
            side=self._hole,
            reflect=self._reflect,
        )
        return out


def _of_bytes(channels: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = (255 * value for value in channels)
    return red, green, blue
