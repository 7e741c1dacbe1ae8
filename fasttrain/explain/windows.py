"""Which entries of its input an operation reads for an entry of its output, in rows and columns.

The operations are those that torch's dispatcher sees: every spelling of a convolution, pool,
padding, slice, flip or resizing ends in one of these few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten
Axes = tuple[int, int]  # rows and columns, counted from a tensor's end


class Window(NamedTuple):
    """Entry i of an output reads entries from `first` + i * `stride` to `last` + i * `stride`."""

    first: float
    last: float
    stride: float


SAME = Window(0, 0, 1)
Windows = tuple[Window, Window] | None  # None where that is not a window


def _convolved(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    _, weight, _, stride, padding, dilation, transposed, *_ = args
    sides = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
    if axes != (-2, -1) or len(sides) != 2:
        return None
    if transposed:
        each = zip(sides, stride, padding, strict=True)
        down, across = (Window((p - side) / s, p / s, 1 / s) for side, s, p in each)
    else:
        each = zip(sides, stride, padding, strict=True)
        down, across = (Window(-p, side - p, s) for side, s, p in each)
    return down, across


def _pooled(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """(input, kernel, stride, padding, ...); the stride is the kernel where it is left out."""
    if axes != (-2, -1):
        return None
    kernel = _pair(args[1])
    stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
    padding = _pair(args[3]) if len(args) > 3 else (0, 0)
    # Only a maximum can have holes; an average has a flag in that place.
    holed = len(args) > 4 and not isinstance(args[4], bool)
    dilation = _pair(args[4]) if holed else (1, 1)
    each = zip(kernel, stride, padding, dilation, strict=True)
    down, across = (Window(-p, (k - 1) * d - p, s) for k, s, p, d in each)
    return down, across


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    both = [value] if isinstance(value, int) else list(value)
    return both[0], both[-1]


def _padded(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """`pads` begins with what stands before the last axis."""
    pads = {-(i // 2) - 1: args[1][i] for i in range(0, len(args[1]), 2)}
    down, across = (Window(-pads.get(axis, 0), -pads.get(axis, 0), 1) for axis in axes)
    return down, across


def _sliced(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    dim = args[1] if len(args) > 1 else 0
    start = args[2] if len(args) > 2 else None
    step = args[4] if len(args) > 4 else 1
    size = t.shape[dim]
    first = range(size)[slice(start, None)].start
    cut = Window(first, first, step)
    down, across = (cut if axis == dim % t.ndim - t.ndim else SAME for axis in axes)
    return down, across


def _flipped(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    turned = {dim % t.ndim - t.ndim for dim in args[1]}
    ends = [t.shape[axis] - 1 for axis in axes]
    both = zip(axes, ends, strict=True)
    down, across = (Window(end, end, -1) if axis in turned else SAME for axis, end in both)
    return down, across


def _resized(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """Resampled between pixel centres, or corner to corner where `args` asks for it."""
    corners = len(args) > 2 and args[2] is True
    made = []
    for axis in axes:
        before, after = t.shape[axis], out.shape[axis]
        if corners:
            made.append(Window(0, 0, (before - 1) / max(after - 1, 1)))
        else:
            made.append(Window((before / after - 1) / 2, (before / after - 1) / 2, before / after))
    return (made[0], made[1]) if axes == (-2, -1) else None


def _adapted(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    ratios = [t.shape[axis] / out.shape[axis] for axis in axes]
    down, across = (Window(0, ratio - 1, ratio) for ratio in ratios)
    return (down, across) if axes == (-2, -1) else None


def _indexed(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """x[:, [2, 1, 0]] exchanges channels; an index along rows or columns is not followed."""
    taken = {i - t.ndim for i, index in enumerate(args[1]) if index is not None}
    return None if taken & set(axes) or out.ndim != t.ndim else (SAME, SAME)


Rule = Callable[[tuple[Any, ...], Tensor, Axes, Tensor], Windows]
WINDOWS: dict[Any, Rule] = {
    aten.convolution: _convolved,
    aten.slice: _sliced,
    aten.flip: _flipped,
    aten.index: _indexed,
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.avg_pool2d), _pooled),
    **dict.fromkeys((aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d), _padded),
    **dict.fromkeys((aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d), _adapted),
    **dict.fromkeys((aten.upsample_nearest2d, aten._upsample_nearest_exact2d), _resized),
    **dict.fromkeys((aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa), _resized),
    **dict.fromkeys((aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa), _resized),
}
# They exchange places in ways that are not followed, and keep the shape.
SHUFFLES = (aten.roll, aten.gather, aten.as_strided, aten.sort, aten.grid_sampler_2d)
