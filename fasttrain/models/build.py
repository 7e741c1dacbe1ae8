"""Builds the network and the optimizer of a Recipe.

It is separate from engine/build.py because explain opens a trained network without a Step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..optim import sgd
from ..optim.clip import clip_gradients
from ..recipe.recipe import Recipe
from . import own
from .resnet import ResNet18, ResNet34, ResNet50
from .sprint import SMALLEST, Sprint
from .weights import freeze, load_weights
from .wide_resnet import WideResNet


def network(
    recipe: Recipe,
    images: Callable[[], Tensor] | None = None,
    *,
    classes: int = 10,
    side: int = 32,
) -> nn.Module:
    """The Recipe's network for images of `side`, on the CPU, initialised from torch's random state.

    A whitening stem calls `images` for some images (N, 3, side, side), normalised. Raises
    UsageError if the network cannot take the images, EnvironmentProblem if a package is missing.
    """
    if ":" in recipe.model:
        return own.make(recipe.model, classes=classes, side=side)
    if recipe.model == "sprint":
        return _sprint(recipe, images, classes, side)
    if recipe.model.startswith("wrn-"):
        layers, width = map(int, recipe.model.split("-")[1:])
        return WideResNet(layers, width, classes=classes, side=side)
    made = {"resnet18": ResNet18, "resnet34": ResNet34, "resnet50": ResNet50}[recipe.model]
    return made(classes, side)


def prepare(
    recipe: Recipe,
    model: nn.Module,
    *,
    classes: int = 10,
    names: Sequence[str] = (),
    fresh: bool = True,
) -> tuple[str, ...]:
    """Apply --init and --freeze; return the names of the head's weights if they are new.

    A head of classes with other `names` is not loaded. A run that is not `fresh` gets its weights
    from its own checkpoint and does not read --init. Raises CheckpointError if the weights do not
    fit, UsageError if weights are needed and none are named.
    """
    new: tuple[str, ...] = ()
    if recipe.init is not None:
        path = Path(recipe.init)
        new = load_weights(model, path, classes=classes, names=names) if fresh else ()
    elif recipe.recipe == "finetune" or recipe.freeze:
        asks = "--freeze" if recipe.freeze else "--recipe finetune"
        raise UsageError(
            f"--init (none): {asks} starts from trained weights. Name a run or a .safetensors file."
        )
    if recipe.freeze:
        freeze(model, classes=classes)
    return new


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of `model`, which clips gradients if the Recipe says so.

    Raises UsageError if the Recipe asks for two optimizers at once.
    """
    made = _optimizer(recipe, model)
    if recipe.clip_grad is not None:
        clip_gradients(made, recipe.clip_grad)
    return made


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    lr = 0.01 if recipe.lr == "auto" else float(recipe.lr)  # the range test sets the rate of auto
    options: dict[str, Any] = {"lr": lr, "momentum": recipe.momentum}
    options |= {"weight_decay": recipe.weight_decay, "decay_norms": recipe.decay_norms}
    if recipe.filters != "sgd":
        if recipe.optimizer not in ("auto", "torch"):
            raise UsageError(
                f"--optimizer ({recipe.optimizer}): is of all weights, and --filters "
                f"{recipe.filters} of some of them. Use --optimizer auto."
            )
        return sgd.muon(model, bias_rate=recipe.bias_rate, **options)
    if recipe.optimizer == "adamw":
        return sgd.adamw(model, **options)
    provider = "torch" if recipe.optimizer == "auto" else recipe.optimizer
    return sgd.sgd(model, **options, nesterov=recipe.nesterov, provider=provider)


def _sprint(recipe: Recipe, images: Callable[[], Tensor] | None, classes: int, side: int) -> Sprint:
    if side < SMALLEST:
        raise UsageError(
            f"--model (sprint): takes images from {SMALLEST} pixels on, and these have {side}. "
            "Choose a larger --side or another --model."
        )
    first, second, third = map(int, recipe.widths.split(","))
    model = Sprint((first, second, third), classes=classes)
    if images:
        model.whiten_(images())
    return model
