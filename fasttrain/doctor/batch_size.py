"""Finds the largest batch that fits, on the eager model, leaving nothing of the trials behind.

A GPU says that its memory is full, so there the sizes are tried. A CPU's system ends the process
instead, so there the need of small batches is measured, and that of larger ones computed.
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

MOST = 50_000
# Batches that are measured on a CPU. ResNet18's needs are straight only from about 32 on: from 8 to
# 32 an image takes 8.0 MiB, from 32 to 128 it takes 8.9 (float32; 5.3 and 5.6 in bf16).
SMALL = (32, 128)
SPARE = 0.1  # of a CPU's room: allocators keep some, and other programs grow


class Largest(NamedTuple):
    """A batch size, and how it was found."""

    batch_size: int
    how: str


def largest(step: Step, *, most: int = MOST, start: int = 128) -> Largest:
    """The largest training batch of 32x32 images that fits `step`'s device; 0 if none does."""
    if step.device.type == "cpu":
        needs = [need(step, size) for size in SMALL]
        return computed(SMALL, needs, room=memory.room(step.device), most=most)
    tried: list[int] = []

    def tries(size: int) -> bool:
        tried.append(size)
        return fits(step, size)

    found = search(tries, most=most, start=start)
    return Largest(found, f"tried: {', '.join(map(str, tried))}")


def search(tries: Callable[[int], bool], *, most: int, start: int) -> int:
    """The largest size that `tries` takes, to within a sixteenth; 0 if it takes none."""
    low, size = 0, min(start, most)
    while size <= most and tries(size):
        low, size = size, 2 * size
    high = min(size, most + 1)  # too large, or never asked for
    while not low and high > 1:
        size = high // 2
        low, high = (size, high) if tries(size) else (0, size)
    while low and high - low > max(1, low // 16):
        size = (low + high) // 2
        low, high = (size, high) if tries(size) else (low, size)
    return low


def fits(step: Step, size: int) -> bool:
    """Whether two training steps of `size` images get by with the memory; they are undone."""
    try:
        train(step, size)
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
        short = True
    else:
        short = False
    gc.collect()
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
    return not short


def train(step: Step, size: int) -> None:
    """Two steps, the second with all that the first leaves in memory, and undo them."""
    images = torch.zeros(size, 3, 32, 32, device=step.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(size, dtype=torch.int64, device=step.device)
    with restored(step):
        step.model.train()
        for _ in range(2):
            step(images, labels)
        if step.device.type == "cuda":
            torch.cuda.synchronize(step.device)


def need(step: Step, size: int) -> int:
    """The most bytes that this process has while it trains on batches of `size`."""
    gc.collect()
    release_pages()  # or it would hide in what earlier work has left
    with memory.peak_of() as found:
        train(step, size)
    return found[0]


def computed(sizes: tuple[int, ...], needs: list[int], *, room: int, most: int = MOST) -> Largest:
    """The largest batch for `room` bytes, from the straight line through what two sizes need."""
    an_image = max(1.0, (needs[-1] - needs[0]) / (sizes[-1] - sizes[0]))
    always = needs[-1] - an_image * sizes[-1]
    size = int(min(most, max(0.0, ((1 - SPARE) * room - always) / an_image)))
    how = (
        f"computed, not tried: batches of {', '.join(map(str, sizes))} took {an_image / 2**20:.1f} "
        f"MiB an image, and there is room for {room / memory.GIB:.1f} GiB"
    )
    return Largest(size, how)
