"""Finds the largest batch size that fits the eager model, and undoes all trial steps.

A GPU reports that its memory is full, so on a GPU the sizes are tried. On a CPU the system kills
the process instead, so the memory of small batches is measured and that of larger ones computed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import NamedTuple

import torch

from ..engine.lr_finder import restored
from ..engine.step import Step
from ..machine import memory
from ..machine.allocator import release_pages

MOST_IMAGES = 50_000
# Batch sizes measured on a CPU. ResNet18's memory is linear only from about 32 on: from 8 to 32 an
# image takes 8.0 MiB, from 32 to 128 it takes 8.9 (float32; 5.3 and 5.6 in bf16).
SMALL = (32, 128)
SPARE = 0.1  # share of a CPU's memory left free, for allocators and growing programs


class Largest(NamedTuple):
    """A batch size and how it was found."""

    batch_size: int
    how: str


def largest(step: Step, *, most: int = MOST_IMAGES, start: int = 128) -> Largest:
    """Find the largest training batch of 32x32 images that fits `step`'s device; 0 if none does."""
    if step.device.type == "cpu":
        peaks = [peak_memory(step, size) for size in SMALL]
        return extrapolate(SMALL, peaks, available=memory.available(step.device), most=most)
    tried: list[int] = []

    def fits_now(size: int) -> bool:
        tried.append(size)
        return fits(step, size)

    found = search(fits_now, most=most, start=start)
    return Largest(found, f"tried: {', '.join(map(str, tried))}")


def search(does_fit: Callable[[int], bool], *, most: int, start: int) -> int:
    """Find the largest size for which `does_fit` is true, to within a sixteenth; 0 if none."""
    low, size = 0, min(start, most)
    while size <= most and does_fit(size):
        low, size = size, 2 * size
    high = min(size, most + 1)  # too large, or beyond the limit
    while not low and high > 1:
        size = high // 2
        low, high = (size, high) if does_fit(size) else (0, size)
    while low and high - low > max(1, low // 16):
        size = (low + high) // 2
        low, high = (size, high) if does_fit(size) else (low, size)
    return low


def fits(step: Step, size: int) -> bool:
    """Whether two training steps of `size` images fit in memory; the steps are undone."""
    try:
        train(step, size)
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error, size):
            raise
        fit = False
    else:
        fit = True
    gc.collect()
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
    return fit


def train(step: Step, size: int) -> None:
    """Train two steps and undo them; the second runs with what the first keeps in memory."""
    images = torch.zeros(size, 3, 32, 32, device=step.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(size, dtype=torch.int64, device=step.device)
    with restored(step):
        step.model.train()
        for _ in range(2):
            step(images, labels)
        if step.device.type == "cuda":
            torch.cuda.synchronize(step.device)


def peak_memory(step: Step, size: int) -> int:
    """The peak bytes of this process while it trains on batches of `size`."""
    gc.collect()
    release_pages()  # otherwise memory freed earlier would be reused and not counted
    with memory.peak_of() as found:
        train(step, size)
    return found[0]


def extrapolate(
    sizes: tuple[int, ...], peaks: list[int], *, available: int, most: int = MOST_IMAGES
) -> Largest:
    """The largest batch for `available` bytes, by the line through the smallest and largest size.

    `peaks` are the peak bytes at each of `sizes`.
    """
    per_image = max(1.0, (peaks[-1] - peaks[0]) / (sizes[-1] - sizes[0]))
    fixed = peaks[-1] - per_image * sizes[-1]
    size = int(min(most, max(0.0, ((1 - SPARE) * available - fixed) / per_image)))
    how = (
        f"computed, not tried: batches of {', '.join(map(str, sizes))} took "
        f"{per_image / 2**20:.1f} MiB an image, and {available / memory.GIB:.1f} GiB are available"
    )
    return Largest(size, how)
