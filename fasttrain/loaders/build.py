"""Builds the loaders of a Recipe, with this process's share of every batch.

It is separate from engine/build.py because explain needs loaders without a Step or an optimizer.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..data import Loader, Split, Statistics
from ..errors import UsageError
from ..parallel.group import Group
from ..parallel.launch import local_batch
from ..recipe.datasets import is_path
from ..recipe.pairs import ends
from ..recipe.recipe import Recipe
from . import draws, warps
from .draws import SIDE

FEW = 5_000  # training images of 32x32 that a whitening stem is computed from: 5 million patches
# Test images per batch at 32x32; both divide CIFAR-10's 10,000: one shape, no rest.
EVAL_BATCH = {"cuda": 1000, "cpu": 250}
STRENGTHS = ("rotate", "brightness", "contrast", "saturation")  # 0 is off


def scaled(pixels: int, side: int) -> int:
    """A length that a Recipe gives in pixels at side 32, in pixels of images of `side`."""
    return round(pixels * side / SIDE)


def training_draws(recipe: Recipe, split: Split) -> draws.Draws:
    """epoch -> the draw of the training images `split`: a WarpedDraw only if something warps."""
    side = split.images.shape[1]
    plain = partial(
        draws.draw,
        seed=recipe.seed,
        count=len(split.labels),
        side=side,
        pad=scaled(recipe.crop_padding, side),
        flip=recipe.flip,
        hole=scaled(recipe.cutout, side),
        hole_probability=recipe.cutout_probability,
        alternate=recipe.alternate,
        shares=draws.class_shares(split.labels) if recipe.balance == "sample" else None,
    )
    zoom, strengths = ends(recipe.zoom), {name: getattr(recipe, name) for name in STRENGTHS}
    if zoom == (1.0, 1.0) and not any(strengths.values()):
        return plain
    return partial(warps.warp, plain, seed=recipe.seed, side=side, zoom=zoom, **strengths)


def loss_weights(recipe: Recipe, split: Split, *, classes: int = 10) -> Tensor | None:
    """The weights of the classes in the loss, float32 (classes,), for --balance loss; else None."""
    if recipe.balance != "loss":
        return None
    return torch.from_numpy(draws.class_weights(split.labels, classes)).float()


def evaluation_loader(
    recipe: Recipe,
    split: Split,
    device: torch.device,
    scale: Statistics,
    *,
    batch_size: int | None = None,
) -> Loader:
    """Every image of `split` once, in order, only normalised; works on any machine."""
    return loader(
        "resident", recipe, device, split, training=False, scale=scale, batch_size=batch_size
    )


def few_images(recipe: Recipe, train: Split, scale: Statistics) -> Tensor:
    """Some training images (N, 3, S, S), normalised, on the CPU; about 5 million pixels.

    They are the first of a published data set, whose order is random, and evenly spread over own
    images, which are in the order of their classes.
    """
    most = max(1, FEW * SIDE**2 // train.images.shape[1] ** 2)
    rows = np.arange(min(most, len(train.labels)))
    if is_path(str(recipe.dataset)):
        rows = rows * len(train.labels) // len(rows)
    few = Split(train.images[rows], train.labels[rows])
    batches = evaluation_loader(recipe, few, torch.device("cpu"), scale)
    return torch.cat([images for images, _ in batches])


def training_loader(recipe: Recipe, split: Split, batch_size: int, scale: Statistics) -> Loader:
    """The Recipe's training batches on the CPU, in another size, for a report to show."""
    return loader(
        "resident",
        recipe,
        torch.device("cpu"),
        split,
        training=True,
        scale=scale,
        batch_size=batch_size,
    )


def loader(
    name: str,
    recipe: Recipe,
    device: torch.device,
    split: Split,
    *,
    training: bool,
    scale: Statistics,
    batch_size: int | None = None,
    group: Group | None = None,
) -> Loader:
    """The loader `name` of `split`, normalised by `scale`."""
    group = group or Group()
    if name == "dali":
        from .dali import DaliLoader as Kind
    elif name == "kernel":
        from .triton import KernelLoader as Kind  # type: ignore[assignment]
    else:
        from .resident import ResidentLoader as Kind  # type: ignore[assignment]
    count, side = len(split.labels), split.images.shape[1]
    if training:
        whole = recipe.batch_size if batch_size is None else batch_size
        shown = draws.sharded(training_draws(recipe, split), group.rank, group.world, whole)
        size = local_batch(whole, group.world)
    else:
        still = draws.part(draws.in_order(count, side), group.rank, group.world)
        shown = lambda epoch: still  # noqa: E731
        size = batch_size or evaluation_batch(count, group.world, evaluation_most(side, device))
    return Kind(
        split,
        shown,
        batch_size=size,
        device=device,
        mean=scale.mean,
        std=scale.std,
        hole=scaled(recipe.cutout, side) if training else 0,
        reflect=recipe.border == "reflect",
        drop_last=training,
    )


def evaluation_most(side: int, device: torch.device) -> int:
    """About how many test images a batch has: fewer above 32x32, in inverse proportion to the side.

    The stems of the networks halve large images once or twice, so that the maps of such a batch
    need at most twice the memory of those at 32x32.
    """
    return max(1, EVAL_BATCH[device.type] * SIDE // max(SIDE, side))


def evaluation_batch(count: int, world: int, most: int) -> int:
    """Images per test batch and process: about `most`, with as many batches in every process."""
    fewest, largest = count // world, -(-count // world)
    if fewest == 0:
        raise UsageError(
            f"--test-limit ({count}): fewer test images than the {world} processes. Use more."
        )
    size = min(most, largest)
    while -(-fewest // size) != -(-largest // size):
        size += 1
    return size
