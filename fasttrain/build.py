"""Turns a Recipe into what the loop needs; the only reader of a Recipe's fields.

Whatever is built here takes plain arguments, so each piece also works in a person's own program.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import choices, draws
from .allocator import keep_pages
from .choices import Choice
from .data import Loader, Split, cifar10, synthetic
from .errors import UsageError
from .network import network, optimizer
from .recipe import Recipe
from .schedule import EveryStep, Plateau
from .step import Step

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
FEW = 5_000  # training images that a whitening stem is made from: 5 million patches
EVAL_BATCH = {"cuda": 1000, "cpu": 250}  # both divide the 10,000 test images: one shape, no rest


class Built(NamedTuple):
    """The parts of a training run, and the choices that `auto` made for it."""

    step: Step
    train: Loader
    test: Loader
    device: torch.device
    choices: dict[str, Choice]


def splits(recipe: Recipe, **options: Any) -> tuple[Split, Split]:
    """The train and test halves, cut to the Recipe's limits; no copy is made."""
    if recipe.dataset == "synthetic":
        train, test = synthetic.load(recipe.train_limit or 50_000, recipe.test_limit or 10_000)
    else:
        folder = Path(recipe.data_dir) if recipe.data_dir else None
        train, test = cifar10.load(folder, **options)
    return _first(train, recipe.train_limit), _first(test, recipe.test_limit)


def build(recipe: Recipe, train: Split, test: Split) -> Built:
    """Model, optimizer, Step and loaders for the splits; UsageError where the batch does not fit
    them."""
    count, batch = len(train.labels), recipe.batch_size
    if batch > count:
        raise UsageError(
            f"--batch-size ({batch}): more than the {count} training images. "
            f"Use --batch-size {count} or less."
        )
    device = choices.device(recipe.device)
    if device.type == "cpu":
        keep_pages()
    chosen = {
        "amp": choices.amp(recipe.amp, device),
        "compile": choices.compiled(recipe.compile, device, steps=recipe.epochs * (count // batch)),
        "loader": choices.loader(recipe.loader, _dali_problem(recipe.loader)),
    }
    set_backends(seed=recipe.seed, deterministic=recipe.deterministic)
    model = network(recipe, partial(few_images, recipe, train))
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = Step(
        model,
        optimizer(recipe, model),
        amp=AMP[chosen["amp"].value],
        compile=chosen["compile"].value == "on",
        label_smoothing=recipe.label_smoothing,
    )
    make = partial(_loader, chosen["loader"].value, recipe, device)
    loaders = make(train, training=True), make(test, training=False)
    return Built(step, *loaders, device, chosen)


def schedule(recipe: Recipe, step: Step, *, steps: int) -> Plateau | EveryStep:
    """The Recipe's schedule over `steps` training steps, from the rate that `step` has now."""
    if recipe.scheduler == "plateau":
        return Plateau(
            step.optimizer,
            patience=recipe.patience,
            factor=recipe.factor,
            threshold=recipe.threshold,
        )
    return EveryStep(step.optimizer, kind=recipe.scheduler, lr=float(step.lr), steps=steps)


def statistics(recipe: Recipe) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation a channel, of pixels in 0..1."""
    reference = recipe.statistics == "reference"
    return cifar10.MEAN, cifar10.REFERENCE_STD if reference else cifar10.STD


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


def set_backends(*, seed: int, deterministic: bool) -> None:
    """Set torch's global switches, all of them here."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def evaluation_loader(recipe: Recipe, split: Split, device: torch.device) -> Loader:
    """Every image of `split` once, in order, untouched but normalised; works on any machine."""
    return _loader("resident", recipe, device, split, training=False)


def few_images(recipe: Recipe, train: Split) -> Tensor:
    """The first training images (N, 3, 32, 32), normalised, on the CPU."""
    few = Split(train.images[:FEW], train.labels[:FEW])
    batches = evaluation_loader(recipe, few, torch.device("cpu"))
    return torch.cat([images for images, _ in batches])


def training_loader(recipe: Recipe, split: Split, batch_size: int) -> Loader:
    """The training batches of the Recipe on the CPU, in another size: to be looked at."""
    return _loader(
        "resident", recipe, torch.device("cpu"), split, training=True, batch_size=batch_size
    )


def _loader(
    name: str,
    recipe: Recipe,
    device: torch.device,
    split: Split,
    *,
    training: bool,
    batch_size: int | None = None,
) -> Loader:
    if name == "dali":
        from .data.dali import DaliLoader as Kind
    elif name == "kernel":
        from .data.kernel import KernelLoader as Kind  # type: ignore[assignment]
    else:
        from .data.resident import ResidentLoader as Kind  # type: ignore[assignment]
    mean, std = statistics(recipe)
    count = len(split.labels)
    still = draws.in_order(count)
    usual = recipe.batch_size if training else min(EVAL_BATCH[device.type], count)
    return Kind(
        split,
        training_draws(recipe, count) if training else lambda epoch: still,
        batch_size=batch_size or usual,
        device=device,
        mean=mean,
        std=std,
        hole=recipe.cutout if training else 0,
        drop_last=training,
    )


def _dali_problem(asked: str) -> str | None:
    from .data import dali

    return dali.available() if asked == "auto" else None


def _first(split: Split, limit: int | None) -> Split:
    return Split(np.asarray(split.images[:limit]), np.asarray(split.labels[:limit]))
