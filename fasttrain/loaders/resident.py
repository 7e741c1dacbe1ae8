"""Loads batches from a split that stays on the device as bytes, augmented in plain torch.

CIFAR-10 is 150 MB: once it is on the device, an epoch moves only its draw. This loader runs
wherever torch runs, and it is the reference that faster loaders are compared with.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Split
from ..machine import auto
from .chunked import Channels, Chunk, Chunked, upload
from .draws import Draws, WarpedDraw
from .resample import recoloured, warped


class ResidentLoader(Chunked):
    """Batches of `split`, augmented, normalised and cut out according to `draws`.

    `mean` and `std` are of pixels in 0..1. `hole` is the side of the CutOut square in pixels, 0 for
    none. Outside an image pixels are black; with `reflect` they are those of the image, mirrored at
    its edge pixels. About `chunk` images are augmented at a time. Raises UsageError for arrays,
    draws or settings that contract.py refuses, and if an epoch has no whole batch.
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
        self._images = _resident(self._split.images, self.device)
        self._means = _row(self._mean, self._side).to(self.device)
        self._deviations = _row(self._std, self._side).to(self.device)

    def _begin(self, epoch: int) -> Chunk:
        draw = self._draws(epoch)
        if isinstance(draw, WarpedDraw):
            return self._begin_warped(draw)
        pad = int(np.abs(draw.crop).max(initial=0))
        here = [upload(field[: self._shown], self.device) for field in draw]
        return lambda start, stop: self._pixels(*(field[start:stop] for field in here), pad=pad)

    def _begin_warped(self, draw: WarpedDraw) -> Chunk:
        fields = {name: field for name, field in draw._asdict().items() if field is not None}
        here = {name: upload(f[: self._shown], self.device) for name, f in fields.items()}
        return lambda start, stop: self._warped_pixels(
            **{name: field[start:stop] for name, field in here.items()}
        )

    def _pixels(
        self, order: Tensor, crop: Tensor, flip: Tensor, hole: Tensor, *, pad: int
    ) -> Tensor:
        images = windows(self._images[order], crop, flip, pad=pad, reflect=self._reflect)
        images = images.to(torch.float32)
        images.sub_(self._means).div_(self._deviations)
        if self._hole:
            images.masked_fill_(hole_mask(hole, self._side, hole_side=self._hole), 0.0)
        return images.to(self._dtype).view(-1, self._side, self._side, 3)

    def _warped_pixels(
        self, *, order: Tensor, affine: Tensor, hole: Tensor, colour: Tensor | None = None
    ) -> Tensor:
        images = warped(self._images[order], affine, reflect=self._reflect)
        if colour is not None:
            images = recoloured(images, colour)
        rows = images.permute(0, 2, 3, 1).reshape(-1, self._side, 3 * self._side)
        rows = rows.sub_(self._means).div_(self._deviations)
        if self._hole:
            rows.masked_fill_(hole_mask(hole, self._side, hole_side=self._hole), 0.0)
        return rows.to(self._dtype).view(-1, self._side, self._side, 3)


def windows(
    images: Tensor, crop: Tensor, flip: Tensor, *, pad: int, reflect: bool = False
) -> Tensor:
    """Crops of uint8 `images` (B, S, S, 3), then flipped: (B, S, 3 S), each row on one axis.

    `pad` is at least as many pixels as any crop reaches outside; with `reflect` no crop reaches S
    pixels outside. Rows of 96 numbers keep the arithmetic that follows vectorised: 2 ms against 10
    for a last axis of 3 (normalising 2,048 images of 32x32, 2 cores).
    """
    side = images.shape[1]
    at = torch.arange(side, device=images.device)
    rows = crop[:, :1] + at
    columns = crop[:, 1:] + torch.where(flip[:, None], side - 1 - at, at)
    if reflect:
        rows, columns, pad = reflected(rows, side), reflected(columns, side), 0
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))
    rows, columns, width = pad + rows, pad + columns, side + 2 * pad
    tops = torch.arange(len(images), device=images.device)[:, None] * width
    # index_select moves a pixel's three bytes at once: 3 ms; indexing with three tensors takes 17.
    pixels = (tops + rows)[:, :, None] * width + columns[:, None, :]
    return padded.reshape(-1, 3).index_select(0, pixels.view(-1)).view(-1, side, side * 3)


def reflected(at: Tensor, side: int) -> Tensor:
    """Positions along `side` pixels; those outside are mirrored at the first or last pixel."""
    return side - 1 - (side - 1 - at.abs()).abs()


def hole_mask(hole: Tensor, side: int, *, hole_side: int) -> Tensor:
    """True inside the squares of `hole_side` pixels at `hole` (B, 2): bool (B, side, 3 side)."""
    rows = torch.arange(side, device=hole.device) - hole[:, :1]
    columns = torch.arange(side * 3, device=hole.device) // 3 - hole[:, 1:]
    inside_rows, inside_columns = ((at >= 0) & (at < hole_side) for at in (rows, columns))
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def _row(channels: tuple[float, ...], side: int) -> Tensor:
    """One value per channel, of pixels in 0..1, as the 3 `side` byte values of a row."""
    return torch.tensor(channels, dtype=torch.float64).mul(255).float().repeat(side)


def _resident(images: np.ndarray, device: torch.device) -> Tensor:
    """`images` as a tensor on `device`; on a CPU without a copy, also of a memory-mapped file."""
    auto.device(str(device))  # raises if the device is missing
    with warnings.catch_warnings():
        # torch warns of a read-only array; this tensor is only read.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(images)).to(device)
