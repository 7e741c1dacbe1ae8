"""Makes training images from bytes according to a draw, in one launch.

    out[i, y, x] = (images[order[i], crop_y + y, crop_x + (S - 1 - x if flip else x)] - mean) / std

for images of S x S pixels. A pixel outside the image is black (raw 0, normalised like the others);
the hole, a square of `side` pixels of `out`, is 0. For each of the 3 S^2 numbers of an image one
byte is read and one number written: 5 bytes as float32, 3 in half precision. Not measured on a GPU
yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers at a time: tl.arange takes powers of 2
BLOCKS = 3  # per program: all the 3,072 numbers of a 32x32 image


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
    last = out.shape[1] - 1
    at = torch.arange(last + 1, device=out.device)
    y = crop[:, :1] + at
    x = crop[:, 1:] + torch.where(flip[:, None], last - at, at)
    if reflect:
        y, x = (last - (last - place.abs()).abs() for place in (y, x))
    there = _square((y >= 0) & (y <= last), (x >= 0) & (x <= last))
    y, x = y.clamp(0, last), x.clamp(0, last)
    pixels = images[order[:, None, None], y[:, :, None], x[:, None, :]].float() * there
    # Filled on the device, number by number: copying a list from the host would make it wait.
    center, spread = (torch.stack([pixels.new_full((), v) for v in three]) for three in (mean, std))
    from_hole = at - hole[:, :, None]
    hidden = _square(*((from_hole >= 0) & (from_hole < side)).unbind(1))
    out.copy_(((pixels - center) / spread).masked_fill(hidden, 0.0))


def _square(rows: Tensor, columns: Tensor) -> Tensor:
    """Where both hold: (B, S), (B, S) -> (B, S, S, 1)."""
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
    BLOCKS: tl.constexpr,
):
    NUMBERS: tl.constexpr = 3 * SIDE * SIDE
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * (BLOCKS * BLOCK)
    source = images + tl.load(order + i) * NUMBERS
    top, left = tl.load(crop + 2 * i), tl.load(crop + 2 * i + 1)
    flipped = tl.load(flip + i) != 0
    hole_y, hole_x = tl.load(hole + 2 * i), tl.load(hole + 2 * i + 1)
    for block in tl.static_range(BLOCKS):
        at = first + block * BLOCK + tl.arange(0, BLOCK)
        channel, x, y = at % 3, at // 3 % SIDE, at // (3 * SIDE)
        from_y, from_x = top + y, left + tl.where(flipped, SIDE - 1 - x, x)
        if REFLECT:
            from_y = SIDE - 1 - tl.abs(SIDE - 1 - tl.abs(from_y))
            from_x = SIDE - 1 - tl.abs(SIDE - 1 - tl.abs(from_x))
        there = (from_y >= 0) & (from_y < SIDE) & (from_x >= 0) & (from_x < SIDE)
        inside = None
        if NUMBERS % (BLOCKS * BLOCK):  # else the blocks fill an image exactly
            inside = at < NUMBERS
            there = there & inside
        pixel = tl.load(source + (from_y * SIDE + from_x) * 3 + channel, there, other=0)
        center = tl.where(channel == 0, mean[0], tl.where(channel == 1, mean[1], mean[2]))
        spread = tl.where(channel == 0, std[0], tl.where(channel == 1, std[1], std[2]))
        # Correctly rounded, as in torch: the pixels of the loaders are then equal to the last bit.
        shown = tl.div_rn(pixel.to(tl.float32) - center, spread)
        in_hole = (y >= hole_y) & (y < hole_y + HOLE) & (x >= hole_x) & (x < hole_x + HOLE)
        shown = tl.where(in_hole, 0.0, shown)
        tl.store(out + i * NUMBERS + at, shown.to(out.dtype.element_ty), inside)


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
    """Fill `out` (B, S, S, 3), of any float dtype, from `images` uint8 (N, S, S, 3).

    `order` int64 (B,), `crop` int32 (B, 2), `flip` bool (B,) and `hole` int32 (B, 2) are rows of a
    Draw; all tensors are contiguous and on one GPU. `mean` and `std` are of bytes, 0..255; `side`
    is the hole's, 0 for none. Outside an image pixels are black, or with `reflect` mirrored.
    """
    length = out.shape[1]
    with torch.cuda.device_of(out):
        _augment_kernel[(len(out), triton.cdiv(3 * length * length, BLOCKS * BLOCK))](
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
            SIDE=length,
            BLOCK=BLOCK,
            BLOCKS=BLOCKS,
            num_warps=4,
            enable_fp_fusion=False,
        )
