"""Computes a Grad-CAM map over the image from a layer's activation and its gradient.

The map is aligned with the image by the centres of the receptive fields, because a plain resize is
wrong by pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from .receptive_fields import Axis, Place, even_axis

ROUNDING = 1e-5  # of the gradients' size: the error of a mean of some thousand float32 is smaller
LAYOUTS = {"first": (-2, -1), "last": (-3, -2)}  # position of channels: axes of rows and columns


def resolve_place(
    name: str, output: Tensor, place: Place | None, channels: str | None
) -> Place | None:
    """Return the Place of the output (4-d) of layer `name`; None to divide the image evenly.

    `channels` is used only if the output could not be traced; UsageError if it is missing then.
    """
    if place is not None and place.axes[0] != -4 and place.axes[1] != -4 and not place.folded:
        return place
    if channels is None:
        raise UsageError(
            f"layer ({name!r}): its output {tuple(output.shape)} cannot be traced back to the "
            "image, so its layout is unknown. Give GradCAM channels='first' for (N, C, H, W) or "
            "channels='last' for (N, H, W, C)."
        )
    return None


def class_map(
    activation: Tensor,
    grad: Tensor,
    *,
    name: str,
    axes: tuple[int, int],
    place: Place | None,
    pixels: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Maps float32 (N, *size) in [0, 1]: relu(sum over channels of w A), divided by its peak.

    w is the spatial mean of `grad`; `axes` are those of rows and columns, counted from the end.
    `pixels` (H, W) is the size of the image, `place` the positions of the entries in it (None:
    evenly spaced). Raises UsageError if all means of layer `name` are mere rounding errors.
    """
    order = [-4, next(axis for axis in (-3, -2, -1) if axis not in axes), *axes]
    activation, grad = activation.permute(order).float(), grad.permute(order).float()
    weights = grad.mean(dim=(2, 3), keepdim=True)
    largest = grad.abs().mean(dim=(2, 3)).amax(dim=1)
    live = largest > 0
    if live.any() and (weights.abs().amax(dim=(1, 2, 3)) <= ROUNDING * largest)[live].all():
        why = "the mean of its gradients is zero in every channel, as before a normalisation"
        raise UsageError(f"layer ({name!r}): {why}. Choose a layer after it.")
    maps = F.relu((weights * activation).sum(dim=1))
    down, across = (place.rows, place.columns) if place else map(even_axis, pixels, maps.shape[1:])
    maps = _resample(maps, down, pixels[0], size[0])
    maps = _resample(maps.mT, across, pixels[1], size[1]).mT
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    return (maps / peaks.where(peaks > 0, torch.ones_like(peaks))).contiguous()


def _resample(maps: Tensor, axis: Axis, pixels: int, size: int) -> Tensor:
    """Resample (N, n, m) to (N, size, m): linear between the centres of `axis`, constant beyond.

    Entry i of the result is at the centre of the i-th of `size` equal parts of `pixels`.
    """
    last = maps.shape[1] - 1
    parts = torch.arange(size, dtype=torch.float64, device=maps.device)
    at = ((parts + 0.5) * (pixels / size) - 0.5 - axis.centre) / axis.step if last else 0 * parts
    at = at.clamp(0, last)
    low = at.floor().long()
    part = (at - low).to(maps.dtype)[:, None]
    return maps[:, low] * (1 - part) + maps[:, (low + 1).clamp(max=last)] * part
