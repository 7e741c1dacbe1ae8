"""3x3 convolutions that join 7x7 and 8x8 images to rows of images, for CPUs with AMX.

oneDNN multiplies bf16 row by row of an image, and 8 pixels fill a quarter of an AMX tile. With 32
images in a row, a column of zeros after each, the same primitives get long rows; the copies cost
little. GFLOP/s on one core of a Xeon with AMX, batch 128, bf16, channels_last, torch 2.13 (n = 7;
without the copies, 2 ms a tensor, where a plain 512-channel forward takes 37 ms):

    8x8 maps               256 channels   256 -> 512   512 channels
    weight gradient                 451          425            408
      32 in a row                 1,007        1,018          1,007
    forward                       1,490        1,216          1,053
      16 in a row                 1,536        1,472          1,556
    data gradient                 1,523        1,078            973
      16 in a row                 1,485        1,243          1,319

Maps of 16x16 and 32x32 gain nothing (weight gradient 1,031 plain, 849 in a row). Nor does im2col
with a matrix product: 560 in chunks of images, 838 tap by tap, for 512 channels. The 7x7 maps of
the sprint network gain too: 1.21 s a step instead of 1.40 (64-256-256 channels, batch 1000, 8 in a
row; best of 9, alternating).
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (7, 8)  # of the maps that gain: those of the sprint network and of ResNet18
FEWEST = 256  # filters
# Images per batch. Images/s of a whole step, divided by the plain step's: 0.93 with 8, 0.97 with
# 16, 1.20 with 32, 1.25 with 128 (medians of 7 pairs, of 9 for 16; one core).
SMALLEST_BATCH = 32
IN_A_ROW = 32  # images, in a weight gradient
IN_A_ROW_FORWARD = 16  # in a forward or data gradient with weights too large for the L2 cache
LEAVE_CACHE = 1_000_000  # weights that are too large for it


def packable(model: nn.Module) -> bool:
    """Whether `model` has a 3x3 convolution that packing may make faster."""
    return any(isinstance(module, nn.Conv2d) and _fits(module) for module in model.modules())


def pack_convolutions(model: nn.Module, *, packed: bool = True) -> None:
    """Make every 3x3 convolution of `model` that can gain packed, or plain; weights stay."""
    before, after = (nn.Conv2d, PackedConv2d) if packed else (PackedConv2d, nn.Conv2d)
    for module in model.modules():
        if type(module) is before and _fits(module):
            module.__class__ = after


class PackedConv2d(nn.Conv2d):
    """A 3x3 nn.Conv2d that joins bf16 images to rows if their maps are narrow."""

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu":  # a copy on meta, used to count operations
            return super().forward(images)
        dtype, stride = _dtype(images), self.stride[0]
        count = gcd(len(images), IN_A_ROW)
        narrow = images.shape[3] in [width * stride for width in WIDTHS]
        fits = narrow and len(images) >= SMALLEST_BATCH and count > 1
        if dtype is not torch.bfloat16 or not fits:
            return super().forward(images)
        with torch.autocast(images.device.type, enabled=False):
            return convolve(images.to(dtype), self.weight.to(dtype), stride=stride, count=count)


def convolve(images: Tensor, weight: Tensor, *, stride: int, count: int) -> Tensor:
    """F.conv2d with padding 1, computed with up to `count` images in a row.

    images (N, C, H, W), N a multiple of `count` and W of `stride`; weight (K, C, 3, 3).
    """
    return _Convolve.apply(images, weight, stride, count)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, count: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.count = stride, count
        ctx.forward_count = _forward_count(weight, stride, count)
        if ctx.forward_count == 1:
            return F.conv2d(images, weight, stride=stride, padding=1)
        joined = F.conv2d(join(images, ctx.forward_count), weight, padding=1)
        return part(joined, ctx.forward_count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        for_images = for_weight = None
        if ctx.needs_input_grad[0]:
            for_images = _data_gradient(grad, images, weight, ctx.stride, ctx.forward_count)
        if ctx.needs_input_grad[1]:
            joined = join(grad, ctx.count), join(images, ctx.count, gap=ctx.stride)
            for_weight = _gradients(*joined, weight, ctx.stride, of_weight=True)
        return for_images, for_weight, None, None


def join(images: Tensor, count: int, *, gap: int = 1) -> Tensor:
    """Join `count` images to a row, `gap` columns of zeros after each, channels_last.

    (N, C, H, W) -> (N / count, C, H, count (W + gap)).
    """
    n, channels, height, width = images.shape
    row = images.new_empty(n // count, height, count, width + gap, channels)
    row[:, :, :, width:] = 0
    row[:, :, :, :width] = images.permute(0, 2, 3, 1).unflatten(0, (-1, count)).transpose(1, 2)
    return row.flatten(2, 3).permute(0, 3, 1, 2)


def part(row: Tensor, count: int) -> Tensor:
    """Undo `join` with a gap of one; the gaps are dropped."""
    each = row.permute(0, 2, 3, 1).unflatten(2, (count, -1))[:, :, :, :-1].transpose(1, 2)
    return each.flatten(0, 1).permute(0, 3, 1, 2)


def _data_gradient(grad: Tensor, images: Tensor, weight: Tensor, stride: int, count: int) -> Tensor:
    if count == 1:
        return _gradients(_dense(grad), images, weight, stride, of_weight=False)
    joined = join(grad, count)
    n, _, height, width = joined.shape
    # Only its shape and layout are used.
    like = images.new_empty(n, height, width, weight.shape[1]).permute(0, 3, 1, 2)
    return part(_gradients(joined, like, weight, 1, of_weight=False), count)


def _gradients(
    grad: Tensor, images: Tensor, weight: Tensor, stride: int, *, of_weight: bool
) -> Tensor:
    """One of the two gradients of a convolution with padding 1."""
    found = torch.ops.aten.convolution_backward(
        grad,
        images,
        weight,
        None,
        [stride, stride],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        1,
        [not of_weight, of_weight, False],
    )
    return found[of_weight]


def _forward_count(weight: Tensor, stride: int, count: int) -> int:
    """How many images a forward and a data gradient join to a row."""
    return gcd(count, IN_A_ROW_FORWARD) if stride == 1 and weight.numel() > LEAVE_CACHE else 1


def _dense(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)


def _fits(conv: nn.Conv2d) -> bool:
    plain = (conv.kernel_size, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1))
    ordinary = conv.groups == 1 and conv.bias is None and conv.padding_mode == "zeros"
    square = conv.stride in ((1, 1), (2, 2))
    return plain and ordinary and square and conv.out_channels >= FEWEST


def _dtype(images: Tensor) -> torch.dtype:
    """The dtype that a convolution computes in."""
    kind = images.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype
