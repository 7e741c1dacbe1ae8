"""Applies the matrices of a WarpedDraw to images in plain torch.

This is what the kernel and DALI are compared with: bilinear interpolation by torch's grid_sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warped(images: Tensor, affine: Tensor, *, reflect: bool = False) -> Tensor:
    """Images uint8 (B, S, S, 3) seen through `affine` (B, 2, 3): float32 (B, 3, S, S), 0 to 255.

    Between four pixels it interpolates linearly. Outside the image all is black, or with `reflect`
    the image mirrored at its edge pixels, again and again.
    """
    side = images.shape[1]
    at = torch.arange(side, device=images.device, dtype=torch.float32)
    rows = affine[:, :, 1, None] * at + affine[:, :, 2, None]
    places = affine[:, None, None, :, 0] * at[:, None] + rows.transpose(1, 2)[:, :, None]
    # grid_sample mirrors at the centres of the edge pixels only where these are its corners, and
    # a side of one pixel has no other corners than its edges.
    corners = reflect and side > 1
    grid = places * (2 / (side - 1)) - 1 if corners else (places * 2 + 1) / side - 1
    return F.grid_sample(
        images.permute(0, 3, 1, 2).float(),
        grid,
        mode="bilinear",
        padding_mode="reflection" if reflect else "zeros",
        align_corners=corners,
    )


def recoloured(images: Tensor, colour: Tensor) -> Tensor:
    """Images (B, 3, S, S) through `colour` (B, 3, 4), cut off at 0 and 255."""
    columns = colour[..., None, None].unbind(2)
    channels = images[:, None].unbind(2)
    red, green, blue, shift = columns
    shown = shift + red * channels[0]
    shown.addcmul_(green, channels[1]).addcmul_(blue, channels[2])
    return shown.clamp_(0, 255)
