"""Traces where the entries of a tensor lie in the image: the centres of their receptive fields.

Grad-CAM aligns a map with its image by these centres. Dividing the image evenly is wrong by pixels
if a layer drops rows, pads on one side or starts its windows at the border.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .gradient_path import tensors
from .windows import UNTRACED, WINDOWS, Window

aten = torch.ops.aten
VIEWS = (aten.view, aten._unsafe_view, aten._reshape_alias, aten.unsqueeze, aten.squeeze)


class Axis(NamedTuple):
    """One axis of a tensor, in pixels of the image.

    Entry i depends on `width` pixels (0 is one pixel) around `centre` + i * `step`.
    """

    centre: float
    width: float
    step: float


class Place(NamedTuple):
    """The axes of a tensor that are rows and columns, counted from its end, and their pixels.

    `folded` is (N, H, W) if all three are merged into the axes before the last, as for nn.Linear.
    """

    axes: tuple[int, int]
    rows: Axis
    columns: Axis
    folded: tuple[int, ...] = ()


def even_axis(pixels: int, entries: int) -> Axis:
    """The Axis of `entries` that divide `pixels` evenly."""
    step = pixels / entries
    return Axis((step - 1) / 2, step - 1, step)


class Places(TorchDispatchMode):
    """`with Places(images) as places: model(images)` traces the pixels of images (N, C, H, W).

    Convolutions, pools, paddings, slices, flips and resizings move the pixels. Permutations, and
    linear layers over the last axis, move the axes. Any other operation keeps both, if it keeps the
    size of both axes. `of` returns the Place of a tensor, or None if it could not be traced.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._places = WeakTensorKeyDictionary()
        self._places[images] = Place((-2, -1), Axis(0, 0, 1), Axis(0, 0, 1))

    def of(self, tensor: Tensor) -> Place | None:
        """The Place of `tensor`, or None."""
        found: Place | None = self._places.get(tensor)
        return found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = [(t, p) for t in tensors(args) if (p := self.of(t)) is not None]
        for out in tensors(result):
            moved = (_propagate(func.overloadpacket, args, t, p, out) for t, p in known)
            joined = _merge([place for place in moved if place is not None])
            if joined is not None:
                self._places[out] = joined
            else:
                self._places.pop(out, None)
        return result


def _propagate(
    kind: Any, args: tuple[Any, ...], t: Tensor, place: Place, out: Tensor
) -> Place | None:
    """The Place of `out` by its input `t`; None if the operation cannot be traced."""
    if kind in (aten.permute, aten.transpose):
        return _permute(args, t.ndim, place)
    if place.folded:
        if out.ndim == 4 and tuple(out.shape[:3]) == place.folded:
            return place._replace(folded=())
        return place if _is_folded(out, place.folded) else None
    sizes = [t.shape[axis] for axis in place.axes]
    if kind in WINDOWS:
        windows = WINDOWS[kind](args, t, place.axes, out) if t is args[0] else None
        if windows is None:
            return None
        axes = zip((place.rows, place.columns), windows, strict=True)
        rows, columns = (_apply_window(axis, window) for axis, window in axes)
        return place._replace(rows=rows, columns=columns)
    if kind in VIEWS and place.axes == (-3, -2) and t.ndim == 4 and out.ndim < 4:
        folded = tuple(t.shape[:3])
        return place._replace(folded=folded) if _is_folded(out, folded) else None
    if kind in UNTRACED:
        return None
    # A view may split or merge the axes before the last two, for example channels into groups.
    alike = out.ndim == t.ndim or (place.axes == (-2, -1) and out.ndim >= 2 and kind in VIEWS)
    same = alike and [out.shape[axis] for axis in place.axes] == sizes
    return place if same else None


def _is_folded(out: Tensor, folded: tuple[int, ...]) -> bool:
    return out.ndim in (2, 3) and out.shape[:-1].numel() == math.prod(folded)


def _apply_window(axis: Axis, window: Window) -> Axis:
    return Axis(
        axis.centre + (window.first + window.last) / 2 * axis.step,
        axis.width + (window.last - window.first) * abs(axis.step),
        axis.step * window.stride,
    )


def _merge(places: list[Place]) -> Place | None:
    """The Place that covers the pixels of all `places`; None if their axes differ."""
    if not places or any(p.axes != places[0].axes or p.folded != places[0].folded for p in places):
        return None
    rows, columns = ([getattr(p, name) for p in places] for name in ("rows", "columns"))
    return places[0]._replace(rows=_union(rows), columns=_union(columns))


def _union(axes: list[Axis]) -> Axis:
    widest = max(axes, key=lambda axis: axis.width)
    alike = [axis for axis in axes if axis.step == widest.step]
    low = min(axis.centre - axis.width / 2 for axis in alike)
    high = max(axis.centre + axis.width / 2 for axis in alike)
    return Axis((low + high) / 2, high - low, widest.step)


def _permute(args: tuple[Any, ...], ndim: int, place: Place) -> Place | None:
    order = list(range(ndim))
    if len(args) == 3:  # a transpose
        order[args[1]], order[args[2]] = order[args[2]], order[args[1]]
    else:
        order = [axis % ndim for axis in args[1]]
    down, across = (order.index(axis + ndim) - ndim for axis in place.axes)
    return None if place.folded else place._replace(axes=(down, across))
