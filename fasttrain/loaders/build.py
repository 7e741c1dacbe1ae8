"""The loaders of a Recipe: whose, in which batches, and of a group which part of every epoch.

Apart from build.py, which takes them for a training, for those who only want to look at images.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..data import Data, Loader, Split
from ..errors import UsageError
from ..parallel.group import Group
from ..parallel.launch import local_batch
from ..recipe.recipe import Recipe
from . import draws

FEW = 5_000  # training images that a whitening stem is made from: 5 million patches
EVAL_BATCH = {"cuda": 1000, "cpu": 250}  # both divide the 10,000 test images: one shape, no rest


Scale = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation a channel, of pixels in 0..1."""


def statistics(data: Data) -> Scale:
    """What the images of a data set are normalised with."""
    return data.mean, data.std


def training_draws(recipe: Recipe, count: int) -> draws.Draws:
    """epoch -> the Draw of `count` training images."""
    return partial(
        draws.draw,
        seed=recipe.seed,
        count=count,
        pad=recipe.crop_padding,
        flip=recipe.flip,
        hole=recipe.cutout,
        hole_probability=recipe.cutout_probability,
        alternate=recipe.alternate,
    )


def evaluation_loader(recipe: Recipe, split: Split, device: torch.device, scale: Scale) -> Loader:
    """Every image of `split` once, in order, untouched but normalised; works on any machine."""
    return loader("resident", recipe, device, split, training=False, scale=scale)


def few_images(recipe: Recipe, train: Split, scale: Scale) -> Tensor:
    """The first training images (N, 3, 32, 32), normalised, on the CPU."""
    few = Split(train.images[:FEW], train.labels[:FEW])
    batches = evaluation_loader(recipe, few, torch.device("cpu"), scale)
    return torch.cat([images for images, _ in batches])


def training_loader(recipe: Recipe, split: Split, batch_size: int, scale: Scale) -> Loader:
    """The training batches of the Recipe on the CPU, in another size: to be looked at."""
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
    scale: Scale,
    batch_size: int | None = None,
    group: Group | None = None,
) -> Loader:
    group = group or Group()
    if name == "dali":
        from .dali import DaliLoader as Kind
    elif name == "kernel":
        from .triton import KernelLoader as Kind  # type: ignore[assignment]
    else:
        from .resident import ResidentLoader as Kind  # type: ignore[assignment]
    count = len(split.labels)
    if training:
        whole = recipe.batch_size if batch_size is None else batch_size
        shown = draws.sharded(training_draws(recipe, count), group.rank, group.world, whole)
        size = local_batch(whole, group.world)
    else:
        still = draws.part(draws.in_order(count), group.rank, group.world)
        shown = lambda epoch: still  # noqa: E731
        size = evaluation_batch(count, group.world, EVAL_BATCH[device.type])
    return Kind(
        split,
        shown,
        batch_size=size,
        device=device,
        mean=scale[0],
        std=scale[1],
        hole=recipe.cutout if training else 0,
        reflect=recipe.border == "reflect",
        drop_last=training,
    )


def evaluation_batch(count: int, world: int, most: int) -> int:
    """Images a test batch of each process: about `most`, and the same number of batches in all."""
    fewest, largest = count // world, -(-count // world)
    if fewest == 0:
        raise UsageError(
            f"--test-limit ({count}): fewer test images than the {world} processes. Use more."
        )
    size = min(most, largest)
    while -(-fewest // size) != -(-largest // size):
        size += 1
    return size
