"""Where in the image the entries of a tensor lie: the centres of their receptive fields.

A map is laid over its image by them. Dividing the image evenly by the size of a map is wrong by
pixels wherever a layer drops rows, pads on one side or starts its windows at the border.
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
from .windows import SHUFFLES, WINDOWS, Window

aten = torch.ops.aten
VIEWS = (aten.view, aten._unsafe_view, aten._reshape_alias, aten.unsqueeze, aten.squeeze)


class Axis(NamedTuple):
    """One axis of a tensor, in pixels of the image: entry i sees `width` pixels (0 is one pixel)
    around `centre` + i * `step`."""

    centre: float
    width: float
    step: float


class Place(NamedTuple):
    """Which two axes of a tensor, counted from its end, are rows and columns, and what they show.

    `folded` is (N, H, W) where all three are in the axes before the last, as nn.Linear has them.
    """

    axes: tuple[int, int]
    rows: Axis
    columns: Axis
    folded: tuple[int, ...] = ()


def evenly(pixels: int, entries: int) -> Axis:
    """`entries` that divide `pixels` among them, none dropped."""
    step = pixels / entries
    return Axis((step - 1) / 2, step - 1, step)


class Places(TorchDispatchMode):
    """`with Places(images) as places: model(images)` follows the pixels of images (N, C, H, W).

    Convolutions, pools, paddings, slices, flips and resizings move them; permutations and linear
    layers over the last axis move the axes; any other operation keeps them where the size of both
    axes stays. `of` gives a tensor's Place, None where they could not be followed.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._places = WeakTensorKeyDictionary()
        self._places[images] = Place((-2, -1), Axis(0, 0, 1), Axis(0, 0, 1))

    def of(self, tensor: Tensor) -> Place | None:
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
            moved = (_moved(func.overloadpacket, args, t, p, out) for t, p in known)
            joined = _joined([place for place in moved if place is not None])
            if joined is not None:
                self._places[out] = joined
            else:
                self._places.pop(out, None)
        return result


def _moved(kind: Any, args: tuple[Any, ...], t: Tensor, place: Place, out: Tensor) -> Place | None:
    """The Place of `out` as far as it comes from `t`; None where it shows no pixels of it."""
    if kind in (aten.permute, aten.transpose):
        return _turned(args, t.ndim, place)
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
        rows, columns = (_through(axis, window) for axis, window in axes)
        return place._replace(rows=rows, columns=columns)
    if kind in VIEWS and place.axes == (-3, -2) and t.ndim == 4 and out.ndim < 4:
        folded = tuple(t.shape[:3])
        return place._replace(folded=folded) if _is_folded(out, folded) else None
    if kind in SHUFFLES:
        return None
    # A view may split or merge the axes before the last two: channels in groups.
    alike = out.ndim == t.ndim or (place.axes == (-2, -1) and out.ndim >= 2 and kind in VIEWS)
    same = alike and [out.shape[axis] for axis in place.axes] == sizes
    return place if same else None


def _is_folded(out: Tensor, folded: tuple[int, ...]) -> bool:
    return out.ndim in (2, 3) and out.shape[:-1].numel() == math.prod(folded)


def _through(axis: Axis, window: Window) -> Axis:
    return Axis(
        axis.centre + (window.first + window.last) / 2 * axis.step,
        axis.width + (window.last - window.first) * abs(axis.step),
        axis.step * window.stride,
    )


def _joined(places: list[Place]) -> Place | None:
    """What sees the pixels of all `places`; None where their axes differ."""
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


def _turned(args: tuple[Any, ...], ndim: int, place: Place) -> Place | None:
    order = list(range(ndim))
    if len(args) == 3:  # a transposition
        order[args[1]], order[args[2]] = order[args[2]], order[args[1]]
    else:
        order = [axis % ndim for axis in args[1]]
    down, across = (order.index(axis + ndim) - ndim for axis in place.axes)
    return None if place.folded else place._replace(axes=(down, across))
