"""Makes turned, zoomed and recoloured training images from bytes, in one launch.

    (u, v) = affine[i] (x, y, 1)
    seen = images[order[i]] at (u, v), linear between the four pixels around it
    out[i, y, x] = (clamp(colour[i] (seen, 1), 0, 255) - mean) / std

for images of S x S pixels. A pixel outside the image is black (raw 0), or with `reflect` that of
the image mirrored at its edge; the hole, a square of `side` pixels of `out`, is 0. A program makes
whole pixels, because a colour matrix needs all three channels. For each of them 12 bytes are
gathered and 3 numbers written. Not measured on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 512  # per program: 2 programs make a 32x32 image


def _ref(
    out: Tensor,
    images: Tensor,
    order: Tensor,
    affine: Tensor,
    colour: Tensor | None,
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
    x, y = at.float()[None, None, :], at.float()[None, :, None]
    a = affine[..., None, None]
    u = a[:, 0, 0] * x + a[:, 0, 1] * y + a[:, 0, 2]
    v = a[:, 1, 0] * x + a[:, 1, 1] * y + a[:, 1, 2]
    left, top = u.floor(), v.floor()
    right, low = u - left, v - top  # the weights of the right and lower neighbours
    seen = torch.zeros_like(out, dtype=torch.float32)
    for down, weight_y in ((0, 1 - low), (1, low)):
        for over, weight_x in ((0, 1 - right), (1, right)):
            row, column = top.long() + down, left.long() + over
            there = (row >= 0) & (row <= last) & (column >= 0) & (column <= last)
            if reflect:
                row, column, there = _mirrored(row, last), _mirrored(column, last), there | True
            row, column = row.clamp(0, last), column.clamp(0, last)
            pixels = images[order[:, None, None], row, column].float()
            seen += pixels * (weight_y * weight_x * there)[..., None]
    if colour is not None:
        shown = (seen[..., None, :] * colour[:, None, None, :, :3]).sum(-1)
        seen = (shown + colour[:, None, None, :, 3]).clamp(0, 255)
    # Filled on the device, number by number: copying a list from the host would make it wait.
    center, spread = (torch.stack([seen.new_full((), v) for v in three]) for three in (mean, std))
    from_hole = at - hole[:, :, None]
    rows, columns = ((from_hole >= 0) & (from_hole < side)).unbind(1)
    hidden = (rows[:, :, None] & columns[:, None, :])[..., None]
    out.copy_(((seen - center) / spread).masked_fill(hidden, 0.0))


def _mirrored(at: Tensor, last: int) -> Tensor:
    """Positions along 0..last, mirrored at both ends as often as needed."""
    period = max(2 * last, 1)
    return torch.minimum(at.abs() % period, period - at.abs() % period)


@triton.jit
def _mirror(at, LAST: tl.constexpr):
    PERIOD: tl.constexpr = 2 * LAST if LAST else 1
    at = tl.abs(at) % PERIOD
    return tl.minimum(at, PERIOD - at)


@triton.jit
def _tap(source, row, column, weight, inside, REFLECT: tl.constexpr, SIDE: tl.constexpr):
    """One of the four neighbours, times its weight: red, green, blue."""
    if REFLECT:
        row, column = _mirror(row, SIDE - 1), _mirror(column, SIDE - 1)
    there = inside & (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    pixel = source + (row * SIDE + column) * 3
    red = tl.load(pixel, there, other=0).to(tl.float32)
    green = tl.load(pixel + 1, there, other=0).to(tl.float32)
    blue = tl.load(pixel + 2, there, other=0).to(tl.float32)
    return red * weight, green * weight, blue * weight


@triton.jit
def _mixed(matrix, ROW: tl.constexpr, red, green, blue):
    """One row of a colour matrix applied to a pixel, cut off at 0 and 255."""
    row = matrix + 4 * ROW
    mixed = tl.load(row) * red + tl.load(row + 1) * green + tl.load(row + 2) * blue
    return tl.minimum(tl.maximum(mixed + tl.load(row + 3), 0.0), 255.0)


@triton.jit
def _store(place, seen, center, spread, in_hole, inside):
    """Write one channel, normalised, with its hole."""
    shown = tl.div_rn(seen - center, tl.zeros_like(seen) + spread)
    shown = tl.where(in_hole, 0.0, shown)
    tl.store(place, shown.to(place.dtype.element_ty), inside)


@triton.jit
def _warp_kernel(
    out,
    images,
    order,
    affine,
    colour,
    hole,
    mean,
    std,
    HOLE: tl.constexpr,
    REFLECT: tl.constexpr,
    COLOUR: tl.constexpr,
    SIDE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    inside, x, y = at < SIDE * SIDE, at % SIDE, at // SIDE
    source, matrix = images + tl.load(order + i) * (3 * SIDE * SIDE), affine + 6 * i
    u = tl.load(matrix) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2)
    v = tl.load(matrix + 3) * x + tl.load(matrix + 4) * y + tl.load(matrix + 5)
    left, top = tl.floor(u), tl.floor(v)
    right, low = u - left, v - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    red = tl.zeros((PIXELS,), tl.float32)
    green, blue = red, red
    for down in tl.static_range(2):
        for over in tl.static_range(2):
            weight = (low if down else 1 - low) * (right if over else 1 - right)
            r, g, b = _tap(source, row + down, column + over, weight, inside, REFLECT, SIDE)
            red, green, blue = red + r, green + g, blue + b
    if COLOUR:
        rows = colour + 12 * i
        r, g, b = red, green, blue
        red = _mixed(rows, 0, r, g, b)
        green = _mixed(rows, 1, r, g, b)
        blue = _mixed(rows, 2, r, g, b)
    hole_y, hole_x = tl.load(hole + 2 * i), tl.load(hole + 2 * i + 1)
    in_hole = (y >= hole_y) & (y < hole_y + HOLE) & (x >= hole_x) & (x < hole_x + HOLE)
    place = out + (i * (SIDE * SIDE) + at) * 3
    _store(place, red, mean[0], std[0], in_hole, inside)
    _store(place + 1, green, mean[1], std[1], in_hole, inside)
    _store(place + 2, blue, mean[2], std[2], in_hole, inside)


def warp_(
    out: Tensor,
    images: Tensor,
    order: Tensor,
    affine: Tensor,
    colour: Tensor | None,
    hole: Tensor,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    side: int,
    reflect: bool = False,
) -> None:
    """Fill `out` (B, S, S, 3), of any float dtype, from `images` uint8 (N, S, S, 3).

    `order` int64 (B,), `affine` float32 (B, 2, 3), `colour` float32 (B, 3, 4) or None and `hole`
    int32 (B, 2) are rows of a WarpedDraw; all tensors are contiguous and on one GPU. `mean` and
    `std` are of bytes, 0..255; `side` is the hole's, 0 for none. Outside an image pixels are black,
    or with `reflect` mirrored. Numbers of `affine` are below a million.
    """
    length = out.shape[1]
    with torch.cuda.device_of(out):
        _warp_kernel[(len(out), triton.cdiv(length * length, PIXELS))](
            out,
            images,
            order,
            affine,
            affine if colour is None else colour,
            hole,
            mean,
            std,
            HOLE=side,
            REFLECT=reflect,
            COLOUR=colour is not None,
            SIDE=length,
            PIXELS=PIXELS,
            num_warps=4,
            enable_fp_fusion=False,
        )
