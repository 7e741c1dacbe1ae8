"""Makes training images out of bytes as a draw says, in one launch.

    out[i, y, x] = (images[order[i], y + crop_y, crop_x + (31 - x  if flip else  x)] - mean) / std

where a pixel outside the image is black (raw 0, normalised like the others), and 0 in the hole, a
square of `side` pixels of `out`. A byte is read and a number written for each of an image's 3,072:
5 bytes as float32, 3 in half precision. Not measured on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SIDE = 32  # pixels along an image
BLOCK = SIDE * SIDE  # a third of an image's 3,072 numbers: tl.arange wants powers of 2


def _ref(
    out: Tensor,
    images: Tensor,
    order: Tensor,
    crop: Tensor,
    flip: Tensor,
    hole: Tensor,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    side: int,
    reflect: bool = False,
) -> None:
    """The same in plain torch."""
    at = torch.arange(SIDE, device=out.device)
    y = crop[:, :1] + at
    x = crop[:, 1:] + torch.where(flip[:, None], SIDE - 1 - at, at)
    if reflect:
        y, x = (SIDE - 1 - (SIDE - 1 - place.abs()).abs() for place in (y, x))
    there = _square((y >= 0) & (y < SIDE), (x >= 0) & (x < SIDE))
    y, x = y.clamp(0, SIDE - 1), x.clamp(0, SIDE - 1)
    pixels = images[order[:, None, None], y[:, :, None], x[:, None, :]].float() * there
    # Made on the device, number by number: a list's tensor would come from the host, which waits.
    center, spread = (torch.stack([pixels.new_full((), v) for v in three]) for three in (mean, std))
    from_hole = at - hole[:, :, None]
    hidden = _square(*((from_hole >= 0) & (from_hole < side)).unbind(1))
    out.copy_(((pixels - center) / spread).masked_fill(hidden, 0.0))


def _square(rows: Tensor, columns: Tensor) -> Tensor:
    """Where both hold: (B, SIDE), (B, SIDE) -> (B, SIDE, SIDE, 1)."""
    return (rows[:, :, None] & columns[:, None, :])[..., None]


@triton.jit
def _augment_kernel(
    out,
    images,
    order,
    crop,
    flip,
    hole,
    mean,
    std,
    HOLE: tl.constexpr,
    REFLECT: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    source = images + tl.load(order + i) * (3 * BLOCK)
    top, left = tl.load(crop + 2 * i), tl.load(crop + 2 * i + 1)
    flipped = tl.load(flip + i) != 0
    hole_y, hole_x = tl.load(hole + 2 * i), tl.load(hole + 2 * i + 1)
    for third in tl.static_range(3):
        at = third * BLOCK + tl.arange(0, BLOCK)
        channel, x, y = at % 3, at // 3 % SIDE, at // (3 * SIDE)
        from_y, from_x = top + y, left + tl.where(flipped, SIDE - 1 - x, x)
        if REFLECT:
            from_y = SIDE - 1 - tl.abs(SIDE - 1 - tl.abs(from_y))
            from_x = SIDE - 1 - tl.abs(SIDE - 1 - tl.abs(from_x))
        there = (from_y >= 0) & (from_y < SIDE) & (from_x >= 0) & (from_x < SIDE)
        pixel = tl.load(source + (from_y * SIDE + from_x) * 3 + channel, there, other=0)
        center = tl.where(channel == 0, mean[0], tl.where(channel == 1, mean[1], mean[2]))
        spread = tl.where(channel == 0, std[0], tl.where(channel == 1, std[1], std[2]))
        # Correctly rounded, as torch divides: the loaders' pixels are equal, not nearly so.
        shown = tl.div_rn(pixel.to(tl.float32) - center, spread)
        in_hole = (y >= hole_y) & (y < hole_y + HOLE) & (x >= hole_x) & (x < hole_x + HOLE)
        shown = tl.where(in_hole, 0.0, shown)
        tl.store(out + i * (3 * BLOCK) + at, shown.to(out.dtype.element_ty))


def augment_(
    out: Tensor,
    images: Tensor,
    order: Tensor,
    crop: Tensor,
    flip: Tensor,
    hole: Tensor,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    side: int,
    reflect: bool = False,
) -> None:
    """Fill `out` (B, 32, 32, 3), of any float dtype, from `images` uint8 (N, 32, 32, 3).

    `order` int64 (B,), `crop` int32 (B, 2), `flip` bool (B,) and `hole` int32 (B, 2) are rows of a
    Draw; all tensors are contiguous and on one GPU. `mean` and `std` are of bytes, 0..255; `side`
    is the hole's, 0 for none. Outside an image all is black, or with `reflect` its mirror image.
    """
    with torch.cuda.device_of(out):
        _augment_kernel[(len(out),)](
            out,
            images,
            order,
            crop,
            flip,
            hole,
            mean,
            std,
            HOLE=side,
            REFLECT=reflect,
            SIDE=SIDE,
            BLOCK=BLOCK,
            num_warps=4,
            enable_fp_fusion=False,
        )
