"""The network that a Recipe names, and what updates it: the half of build without data.

Also what a trained run is opened with again, without an optimizer or a training set.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..optim import sgd
from ..recipe.recipe import Recipe
from .resnet import ResNet18
from .sprint import Sprint


def network(
    recipe: Recipe, images: Callable[[], Tensor] | None = None, *, classes: int = 10
) -> nn.Module:
    """The Recipe's network on the CPU, drawn from torch's random state; a stem that is made from
    images asks `images` for some (N, 3, 32, 32), normalised."""
    if recipe.model == "resnet18":
        return ResNet18(classes)
    first, second, third = map(int, recipe.widths.split(","))
    model = Sprint((first, second, third), classes)
    if images:
        model.whiten_(images())
    return model


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """What updates `model`; UsageError where the Recipe asks for two things at once."""
    lr = 0.01 if recipe.lr == "auto" else float(recipe.lr)  # the range test replaces auto's
    options = {"lr": lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    if recipe.filters == "sgd":
        provider = "torch" if recipe.optimizer == "auto" else recipe.optimizer
        return sgd.sgd(model, **options, provider=provider)
    if recipe.optimizer not in ("auto", "torch"):
        raise UsageError(
            f"--optimizer ({recipe.optimizer}): is SGD alone, and --filters {recipe.filters} is "
            "not. Use --optimizer auto."
        )
    return sgd.muon(model, **options)
