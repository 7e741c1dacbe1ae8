"""The fields of a Recipe that say what is trained: network, optimizer and schedule.

They are apart from the other fields because a module of all of them would be too long to read.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ..errors import UsageError
from .fields import choice, line, number, place, switch
from .named import MODELS, RECIPES


@dataclasses.dataclass(frozen=True)
class Training:
    """The first part of a Recipe."""

    recipe: str = choice("resnet18", tuple(RECIPES), "recipe", "named set of defaults")
    model: str = line(
        "resnet18",
        "recipe",
        f"network to train: {', '.join(MODELS)}, your own (it runs the code of MODULE in the "
        "current folder and calls FUNCTION(num_classes=...)), or one of timm's",
        metavar="NAME|MODULE:FUNCTION|timm:NAME",
        form=r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*|timm:[\w.-]+",
        known=MODELS,
    )
    init: str | os.PathLike[str] | None = place(  # noqa: RUF009 - kept as text
        None, "recipe", "RUN|FILE.safetensors", "start from these weights; other classes, new head"
    )
    freeze: bool = switch("recipe", "train the head alone; all other weights stay as they are")
    widths: str = line(
        "64,256,256",
        "recipe",
        "channels in the three stages of the sprint network",
        metavar="INT,INT,INT",
        form=r"[1-9]\d{0,3}(,[1-9]\d{0,3}){2}",
    )
    epochs: int = number(50, 1, 100_000, "recipe", "passes over the training images")
    batch_size: int = number(128, 1, 50_000, "recipe", "images per step, summed over all processes")
    lr: float | str = number(
        "auto", 1e-8, 1e3, "recipe", "learning rate; auto runs a range test first", also=("auto",)
    )
    momentum: float = number(0.9, 0.0, 0.9999, "recipe", "momentum of SGD; first beta of AdamW")
    nesterov: bool = switch("recipe", "Nesterov momentum in SGD; muon always has it")
    weight_decay: float = number(
        5e-4, 0.0, 1.0, "recipe", "L2 penalty of SGD; decoupled decay of AdamW, times the rate"
    )
    decay_norms: bool = switch(
        "recipe", "weight decay also of normalisation layers and biases", default=True
    )
    clip_grad: float | None = number(
        None, 1e-6, 1e6, "recipe", "largest norm of all gradients together; none: no limit"
    )
    ema: float | None = number(
        None,
        0.0,
        0.999999,
        "recipe",
        "decay of an average of the weights, evaluated beside them; none: no average",
    )
    accumulate: int = number(
        1, 1, 10_000, "recipe", "compute a step in so many parts, one by one, for less memory"
    )
    filters: str = choice("sgd", ("sgd", "muon"), "recipe", "optimizer of the convolution filters")
    bias_rate: float = number(
        0.22, 0.0, 1e4, "recipe", "muon: rate of the biases, times that of the filters"
    )
    label_smoothing: float = number(
        0.0, 0.0, 0.9, "recipe", "fraction of each target spread over all classes"
    )
    balance: str = choice(
        "none", ("none", "loss", "sample"), "recipe", "rare classes count more, by frequency^-0.5"
    )
    scheduler: str = choice(
        "plateau", ("plateau", "onecycle", "cosine", "linear"), "recipe", "learning-rate schedule"
    )
    warmup: float = number(
        0.0, 0.0, 1000.0, "recipe", "epochs in which the rate rises from 0, before the schedule"
    )
    patience: int = number(3, 0, 1000, "recipe", "plateau: epochs to wait for an improvement")
    factor: float = number(0.1, 1e-4, 0.9999, "recipe", "plateau: multiplies the learning rate")
    threshold: float = number(
        0.001, 0.0, 1.0, "recipe", "plateau: smallest gain in the monitored score that counts"
    )
    monitor: str = choice(
        "accuracy",
        ("accuracy", "balanced_accuracy", "macro_f1", "loss"),
        "recipe",
        "score of the held-out images that plateau and the best epoch go by",
    )
    sync_bn: bool = switch("recipe", "synchronize BatchNorm over all processes")


def check_pairs(recipe: Any) -> None:
    """Raise UsageError if a Recipe has fields that are possible alone but not together."""
    if recipe.warmup and recipe.warmup >= recipe.epochs:
        raise UsageError(
            f"--warmup ({recipe.warmup:g}): must end before the training does, which has "
            f"{recipe.epochs} epochs. Use a shorter one, or more --epochs."
        )
    if recipe.nesterov and recipe.optimizer == "adamw":
        raise UsageError(
            "--nesterov: is of SGD, and --optimizer adamw has none. Leave one of them out."
        )
    if recipe.nesterov and not recipe.momentum and recipe.filters == "sgd":
        raise UsageError("--nesterov: needs a --momentum above 0. Leave it out, or raise that.")
    if recipe.keep is not None and recipe.checkpoint_every is None:
        raise UsageError(
            f"--keep ({recipe.keep}): goes with --checkpoint-every. Add it, or leave --keep out."
        )
