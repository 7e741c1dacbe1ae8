"""The randomness of one epoch, drawn as arrays by a pure function of (seed, epoch).

Every loader applies the same Draw, so they give the same pixels (DALI's float32 to 2.4e-7, the last
place of the largest), a run can resume at any step without saving a generator, and the shards of
several processes are slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIDE = 32  # pixels along an image


class Draw(NamedTuple):
    """One epoch's order and augmentation; row i belongs to the i-th image shown, `order[i]`.

    order: int64 (N,), indices into the split.
    crop: int32 (N, 2), top and left of the 32x32 window relative to the image, -pad..pad.
    flip: bool (N,), mirrored left-right after the crop.
    hole: int32 (N, 2), top and left of the CutOut square after the flip; (32, 32) is no hole.
    """

    order: np.ndarray
    crop: np.ndarray
    flip: np.ndarray
    hole: np.ndarray


Draws = Callable[[int], Draw]
"""epoch (from 1) -> Draw; what a loader is given."""


def draw(
    epoch: int,
    *,
    seed: int,
    count: int,
    pad: int = 4,
    flip: float = 0.5,
    hole: int = 8,
    hole_probability: float = 1.0,
    alternate: bool = False,
) -> Draw:
    """Draw the augmentation of `count` images for `epoch`.

    With `alternate`, each image is drawn a side in the first epoch (mirrored with probability
    `flip`) and shows the other one in every second epoch: two epochs then hold each image both ways
    and none of them twice the same (Jordan, arXiv 2404.00498).

    The crop's offsets are uniform over all (2 pad + 1)^2; the hole's side is `hole` pixels and it
    lies wholly inside the image, as albumentations' CoarseDropout places it. One child generator
    per field: turning one augmentation off leaves the others' draws as they were.
    """
    fields = np.random.SeedSequence([seed, epoch]).spawn(5)
    orders, crops, flips, holes, chances = (np.random.Generator(np.random.PCG64(s)) for s in fields)
    order = orders.permutation(count)
    corner = holes.integers(0, SIDE - hole + 1, size=(count, 2), dtype=np.int32)
    has_hole = chances.random((count, 1)) < (hole_probability if hole else 0.0)
    return Draw(
        order=order,
        crop=crops.integers(-pad, pad + 1, size=(count, 2), dtype=np.int32),
        flip=_sides(epoch, seed, count, flip)[order] if alternate else flips.random(count) < flip,
        hole=np.where(has_hole, corner, np.int32(SIDE)),
    )


def _sides(epoch: int, seed: int, count: int, flip: float) -> np.ndarray:
    """Whether each image of the split is mirrored in `epoch`: the first epoch's draw, or not it."""
    first = np.random.Generator(np.random.PCG64([seed, 0])).random(count) < flip
    return first ^ (epoch % 2 == 0)


def shard(whole: Draw, rank: int, world: int, batch_size: int) -> Draw:
    """What process `rank` of `world` shows of an epoch in batches of `batch_size` images over all.

    Of each such batch it is the rank-th of `world` equal, contiguous parts, so that all together
    show at every step what one process alone would. `world` divides `batch_size`; the images after
    the last whole batch are left out.
    """
    shown = len(whole.order) // batch_size * batch_size
    rows = np.arange(shown).reshape(-1, world, batch_size // world)[:, rank].ravel()
    return Draw(*(field[rows] for field in whole))


def sharded(draws: Draws, rank: int, world: int, batch_size: int) -> Draws:
    """`draws` whose every epoch is `shard`'s; of one process those of before, to the last image."""
    if world == 1:
        return draws
    return lambda epoch: shard(draws(epoch), rank, world, batch_size)


def part(whole: Draw, rank: int, world: int) -> Draw:
    """The rank-th of `world` contiguous parts of an evaluation, as equal as it goes."""
    count = len(whole.order)
    return Draw(*(field[rank * count // world : (rank + 1) * count // world] for field in whole))


def in_order(count: int) -> Draw:
    """The draw of an evaluation: every image once, in order, untouched."""
    return Draw(
        order=np.arange(count),
        crop=np.zeros((count, 2), np.int32),
        flip=np.zeros(count, bool),
        hole=np.full((count, 2), SIDE, np.int32),
    )
