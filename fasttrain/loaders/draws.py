"""The random choices of one epoch, drawn as arrays by a pure function of (seed, epoch).

Every loader applies the same Draw, so all loaders give the same pixels (DALI's float32 to 2.4e-7,
one unit in the last place of the largest values). A run can resume at any step without a saved
generator, and each of several processes takes a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

SIDE = 32  # pixels along an image where no side is given


class Draw(NamedTuple):
    """One epoch's order and augmentation; row i belongs to the i-th image shown, `order[i]`.

    order: int64 (N,), indices into the split.
    crop: int32 (N, 2), top and left of the window, as large as the image and relative to it,
        -pad..pad.
    flip: bool (N,), mirrored left-right after the crop.
    hole: int32 (N, 2), top and left of the CutOut square after the flip; (side, side) is no hole.
    """

    order: np.ndarray
    crop: np.ndarray
    flip: np.ndarray
    hole: np.ndarray


class WarpedDraw(NamedTuple):
    """One epoch's order and augmentation where images are also turned, zoomed or recoloured.

    order: int64 (N,), indices into the split.
    affine: float32 (N, 2, 3), from (x, y, 1) of a pixel shown to (x, y) in the image, in pixels
        from the centre of its first one; crop and flip are part of it.
    colour: float32 (N, 3, 4), from (red, green, blue, 1) of bytes to the red, green and blue shown,
        before they are cut off at 0 and 255; None leaves all colours as they are.
    hole: int32 (N, 2), as in Draw.
    """

    order: np.ndarray
    affine: np.ndarray
    colour: np.ndarray | None
    hole: np.ndarray


AnyDraw = TypeVar("AnyDraw", bound="Draw | WarpedDraw")
Draws = Callable[[int], "Draw | WarpedDraw"]
"""epoch (from 1) -> its draw, of one kind in all epochs; every loader takes one."""

# The generators of an epoch. A new field takes the next place: that of the others is their seed.
STREAMS: tuple[str, ...] = ("order", "crop", "flip", "hole", "chance")
STREAMS += ("angle", "zoom", "brightness", "contrast", "saturation")


def streams(seed: int, epoch: int) -> dict[str, np.random.Generator]:
    """A generator for each field, so that turning one augmentation off leaves the others alone."""
    seeds = np.random.SeedSequence([seed, epoch]).spawn(len(STREAMS))
    return {
        name: np.random.Generator(np.random.PCG64(s))
        for name, s in zip(STREAMS, seeds, strict=True)
    }


def draw(
    epoch: int,
    *,
    seed: int,
    count: int,
    side: int = SIDE,
    pad: int = 4,
    flip: float = 0.5,
    hole: int = 8,
    hole_probability: float = 1.0,
    alternate: bool = False,
    shares: np.ndarray | None = None,
) -> Draw:
    """Draw the augmentation of `count` images of `side` x `side` pixels for `epoch`.

    With `alternate`, each image is flipped or not by one draw in the first epoch (flipped with
    probability `flip`), and the other way in every second epoch. Two epochs then show each image
    both ways, and neither way twice (Jordan, arXiv 2404.00498).

    With `shares` (count,), image i is shown `count * shares[i] / shares.sum()` times, rounded up or
    down at random, instead of once.

    The crop's offsets are uniform over all (2 pad + 1)^2. The hole is `hole` pixels wide and high
    and lies inside the image, as albumentations' CoarseDropout places it.
    """
    of = streams(seed, epoch)
    order = of["order"].permutation(count)
    if shares is not None:
        order = _by_share(order, shares, of["order"])
    corner = of["hole"].integers(0, side - hole + 1, size=(count, 2), dtype=np.int32)
    has_hole = of["chance"].random((count, 1)) < (hole_probability if hole else 0.0)
    chosen = _flips(epoch, seed, count, flip)[order] if alternate else None
    return Draw(
        order=order,
        crop=of["crop"].integers(-pad, pad + 1, size=(count, 2), dtype=np.int32),
        flip=of["flip"].random(count) < flip if chosen is None else chosen,
        hole=np.where(has_hole, corner, np.int32(side)),
    )


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """frequency^-0.5 of each class, float64 (classes,), scaled so that the mean over all images is
    1; a class without an image gets 0."""
    counts = np.bincount(labels, minlength=classes)
    # Of the mean's sum, count * count^-0.5 is a class's part.
    scale = len(labels) / max(np.sqrt(counts).sum(), 1)
    return np.where(counts > 0, scale / np.sqrt(np.maximum(counts, 1)), 0.0)


def class_shares(labels: np.ndarray) -> np.ndarray:
    """How often each image is shown per epoch on average: its class's `class_weights`, (N,)."""
    labels = np.asarray(labels)
    return class_weights(labels, int(labels.max(initial=0)) + 1)[labels]


def _by_share(order: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many indices as `order` has, each as often as its share says, in random order.

    Systematic sampling: evenly spaced points on the line of all shares. The images of a class lie
    together on it, so that images and classes are each shown less than one time more or less than
    their share. Independent draws would leave out a third of the images.
    """
    line = order[np.argsort(shares[order], kind="stable")]
    ends = np.cumsum(shares[line])
    points = (np.arange(len(line)) + random.random()) * (ends[-1] / len(line))
    picked = np.searchsorted(ends, points, side="right").clip(max=len(line) - 1)
    return random.permutation(line[picked])


def _flips(epoch: int, seed: int, count: int, flip: float) -> np.ndarray:
    """Whether each image of the split is flipped in `epoch`; every second epoch is the opposite."""
    first = np.random.Generator(np.random.PCG64([seed, 0])).random(count) < flip
    return first ^ (epoch % 2 == 0)


def shard(whole: AnyDraw, rank: int, world: int, batch_size: int) -> AnyDraw:
    """The part of an epoch that process `rank` of `world` shows; `batch_size` is over all of them.

    Each batch is cut into `world` equal, contiguous parts, and the rank takes its own, so that all
    processes together show at every step what one process would show. `world` divides
    `batch_size`; the images after the last whole batch are left out.
    """
    shown = len(whole.order) // batch_size * batch_size
    rows = np.arange(shown).reshape(-1, world, batch_size // world)[:, rank].ravel()
    parts: list[Any] = [None if field is None else field[rows] for field in whole]
    return type(whole)(*parts)


def sharded(draws: Draws, rank: int, world: int, batch_size: int) -> Draws:
    """`draws` with every epoch cut by `shard`; with one process, `draws` itself."""
    if world == 1:
        return draws
    return lambda epoch: shard(draws(epoch), rank, world, batch_size)


def part(whole: Draw, rank: int, world: int) -> Draw:
    """The rank-th of `world` contiguous parts of an evaluation, as equal in size as possible."""
    count = len(whole.order)
    return Draw(*(field[rank * count // world : (rank + 1) * count // world] for field in whole))


def in_order(count: int, side: int = SIDE) -> Draw:
    """The draw of an evaluation: every image once, in order, without augmentation."""
    return Draw(
        order=np.arange(count),
        crop=np.zeros((count, 2), np.int32),
        flip=np.zeros(count, bool),
        hole=np.full((count, 2), side, np.int32),
    )
