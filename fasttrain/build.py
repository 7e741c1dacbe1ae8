"""Turns a Recipe into what the loop needs; the only reader of a Recipe's fields.

Whatever is built here takes plain arguments, so each piece also works in a person's own program.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from . import choices, draws, optim
from .allocator import keep_pages
from .choices import Choice
from .data import Loader, Split, cifar10, synthetic
from .errors import UsageError
from .models.resnet18 import ResNet18
from .models.sprint import Sprint
from .recipe import Recipe
from .schedule import EveryStep, Plateau
from .step import Step

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
WHITENED = 5_000  # training images that a whitening stem is made from: 5 million patches
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
    model = network(recipe, train).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = Step(
        model,
        _optimizer(recipe, model),
        amp=AMP[chosen["amp"].value],
        compile=chosen["compile"].value == "on",
        label_smoothing=recipe.label_smoothing,
    )
    make = partial(_loader, chosen["loader"].value, recipe, device)
    loaders = make(train, training=True), make(test, training=False)
    return Built(step, *loaders, device, chosen)


def network(recipe: Recipe, train: Split | None = None) -> nn.Module:
    """The Recipe's network on the CPU, in torch's random state; its stem fitted to `train`."""
    if recipe.model == "resnet18":
        return ResNet18()
    model = Sprint((recipe.width, 4 * recipe.width, 4 * recipe.width))
    if train:
        first = Split(train.images[:WHITENED], train.labels[:WHITENED])
        model.whiten_(next(iter(evaluation_loader(recipe, first, torch.device("cpu")))).images)
    return model


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


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    lr = 0.01 if recipe.lr == "auto" else float(recipe.lr)  # the range test replaces auto's
    options = {"lr": lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    if recipe.filters == "sgd":
        provider = "torch" if recipe.optimizer == "auto" else recipe.optimizer
        return optim.sgd(model, **options, provider=provider)
    if recipe.optimizer not in ("auto", "torch"):
        raise UsageError(
            f"--optimizer ({recipe.optimizer}): is SGD alone, and --filters {recipe.filters} is "
            "not. Use --optimizer auto."
        )
    return optim.muon(model, **options)


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
