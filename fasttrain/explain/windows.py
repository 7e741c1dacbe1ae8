"""For each operation, the input rows and columns that an output entry depends on.

These are operations of torch's dispatcher, because all functions for a convolution, pool, padding,
slice, flip or resizing end in one of these few.
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
Windows = tuple[Window, Window] | None  # None if the operation is not a window


def _convolution(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
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


def _pool(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """Arguments (input, kernel, stride, padding, ...); the stride is the kernel by default."""
    if axes != (-2, -1):
        return None
    kernel = _pair(args[1])
    stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
    padding = _pair(args[3]) if len(args) > 3 else (0, 0)
    # Only max pools have a dilation; average pools have a flag at that position.
    dilated = len(args) > 4 and not isinstance(args[4], bool)
    dilation = _pair(args[4]) if dilated else (1, 1)
    each = zip(kernel, stride, padding, dilation, strict=True)
    down, across = (Window(-p, (k - 1) * d - p, s) for k, s, p, d in each)
    return down, across


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    both = [value] if isinstance(value, int) else list(value)
    return both[0], both[-1]


def _pad(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """Only the padding before an axis matters; the list starts with that of the last axis."""
    pads = {-(i // 2) - 1: args[1][i] for i in range(0, len(args[1]), 2)}
    down, across = (Window(-pads.get(axis, 0), -pads.get(axis, 0), 1) for axis in axes)
    return down, across


def _slice(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    dim = args[1] if len(args) > 1 else 0
    start = args[2] if len(args) > 2 else None
    step = args[4] if len(args) > 4 else 1
    size = t.shape[dim]
    first = range(size)[slice(start, None)].start
    cut = Window(first, first, step)
    down, across = (cut if axis == dim % t.ndim - t.ndim else SAME for axis in axes)
    return down, across


def _flip(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    turned = {dim % t.ndim - t.ndim for dim in args[1]}
    ends = [t.shape[axis] - 1 for axis in axes]
    both = zip(axes, ends, strict=True)
    down, across = (Window(end, end, -1) if axis in turned else SAME for axis, end in both)
    return down, across


def _resize(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """Resample between pixel centres, or between corners with align_corners."""
    corners = len(args) > 2 and args[2] is True
    made = []
    for axis in axes:
        before, after = t.shape[axis], out.shape[axis]
        if corners:
            made.append(Window(0, 0, (before - 1) / max(after - 1, 1)))
        else:
            made.append(Window((before / after - 1) / 2, (before / after - 1) / 2, before / after))
    return (made[0], made[1]) if axes == (-2, -1) else None


def _adaptive_pool(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    ratios = [t.shape[axis] / out.shape[axis] for axis in axes]
    down, across = (Window(0, ratio - 1, ratio) for ratio in ratios)
    return (down, across) if axes == (-2, -1) else None


def _index(args: tuple[Any, ...], t: Tensor, axes: Axes, out: Tensor) -> Windows:
    """An index over channels, as in x[:, [2, 1, 0]], is traced; over rows or columns it is not."""
    taken = {i - t.ndim for i, index in enumerate(args[1]) if index is not None}
    return None if taken & set(axes) or out.ndim != t.ndim else (SAME, SAME)


Rule = Callable[[tuple[Any, ...], Tensor, Axes, Tensor], Windows]
WINDOWS: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.slice: _slice,
    aten.flip: _flip,
    aten.index: _index,
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.avg_pool2d), _pool),
    **dict.fromkeys((aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d), _pad),
    **dict.fromkeys((aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d), _adaptive_pool),
    **dict.fromkeys((aten.upsample_nearest2d, aten._upsample_nearest_exact2d), _resize),
    **dict.fromkeys((aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa), _resize),
    **dict.fromkeys((aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa), _resize),
}
# These move entries in ways that are not traced, but keep the shape.
UNTRACED = (aten.roll, aten.gather, aten.as_strided, aten.sort, aten.grid_sampler_2d)
