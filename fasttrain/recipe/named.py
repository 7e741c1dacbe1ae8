"""The named recipes: the fields in which each differs from the defaults of Recipe.

They are plain data, so that a new recipe needs a few lines here and no other change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from .fields import Scalar, check, plain

MODELS = ("resnet18", "resnet34", "resnet50", "wrn-16-8", "wrn-28-10", "sprint")

RECIPES: dict[str, dict[str, Scalar]] = {
    "resnet18": {},
    # The source experiment, as far as it is known. Release 0.1 left its rotation out.
    "reference": {
        "lr": 0.0534,
        "weight_decay": 0.0,
        "crop_padding": 0,
        "cutout": 16,
        "cutout_probability": 0.5,
        "rotate": 7.0,
        "statistics": "reference",
    },
    # Measured in benchmarks/results/sprint-*.json; docs/sprint.md explains each setting.
    "sprint": {
        "model": "sprint",
        "target_accuracy": 0.9253,
        "batch_size": 500,
        "lr": 0.16,
        "filters": "muon",
        "momentum": 0.85,
        "weight_decay": 3e-3,
        # Biases at the rate of the record runs in our unit, a mean loss: 88.52 % for 88.18 at the
        # 88 % level (36,72,144, seeds 0 and 1). With decay they would lose 4 % a step.
        "bias_rate": 75.0,
        "decay_norms": False,
        "scheduler": "linear",
        "label_smoothing": 0.2,
        "crop_padding": 2,
        "border": "reflect",
        "alternate": True,
        "cutout": 0,
        "test_flips": True,
    },
    # What the records of ResNets on CIFAR-10 share; docs/recipes.md says what each part brings.
    "modern": {
        "lr": 0.1,
        "nesterov": True,
        "decay_norms": False,
        "scheduler": "onecycle",
        "label_smoothing": 0.1,
        "border": "reflect",
        "alternate": True,
    },
    # For --init: a rate so low that the weights keep what they know. 250 images of other classes of
    # CIFAR-10: 78.9 %, without weights 69.3 %. On digits a rate of 0.1 is better (docs/recipes.md).
    "finetune": {
        "epochs": 20,
        "lr": 0.01,
        "scheduler": "cosine",
        "label_smoothing": 0.1,
        "cutout": 0,
    },
}

# (target accuracy, settings): a sprint takes the first level that is not below its target. Width
# helps more than epochs: 96,320,320 stopped improving at 94.0 % (16 and 18 epochs) and 128,384,384
# at 94.2 % (10 to 24), with 98 to 99.8 % of the training images learnt. The second level reached
# 92.77, 92.80 and 92.44 % in its 7 epochs, the third 94.15 and 94.10 % in 10 and 93.83 % in 8. The
# last is not measured: on a GPU its network ended at 94.03 %, with a hole of 8 pixels at 94.31 %.
LEVELS: list[tuple[float, dict[str, Scalar]]] = [
    # 36,72,144 took 1.28 times as long: oneDNN pads channels to 32.
    (0.88, {"widths": "32,64,192", "epochs": 4}),
    (0.9253, {"widths": "64,256,256", "epochs": 7}),
    (0.94, {"widths": "128,384,384", "epochs": 10, "crop_padding": 4}),
    (0.95, {"widths": "128,384,384", "epochs": 24, "crop_padding": 4}),
]


# What a sprint's targets were measured on; any other data set is trained to its last epoch.
SPRINTED = ("cifar10", "synthetic")
MIRRORED = ("alternate", "test_flips")


def fill(recipe: Any, given: Collection[str]) -> None:
    """Check the `given` fields of a new Recipe; take the others from the recipe that it names."""
    for field in dataclasses.fields(recipe):
        value = plain(field, getattr(recipe, field.name))
        object.__setattr__(recipe, field.name, value)  # a Recipe is frozen from here on
        if field.name in given:
            check(field, value)
    for name, value in settings(recipe.recipe, vars(recipe)).items():
        if name not in given:
            object.__setattr__(recipe, name, value)


def settings(name: str, given: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the fields that the named recipe sets beside the given ones.

    A sprint's level is that of the given, or else its own, target, and its own target is of
    CIFAR-10 alone. With --flip 0 no recipe mirrors an image, neither in training nor in a test:
    every other epoch would show all of them mirrored.
    """
    found = RECIPES[name]
    if name == "sprint":
        target = given.get("target_accuracy")
        found = {**found, **level(found["target_accuracy"] if target is None else target)}
        if str(given.get("dataset", "cifar10")) not in SPRINTED:
            del found["target_accuracy"]
    if given.get("flip") == 0:
        found = {field: value for field, value in found.items() if field not in MIRRORED}
    return found


def level(target: Scalar) -> dict[str, Scalar]:
    """Return the sprint's settings for a target; those of the last level for any higher one."""
    number = isinstance(target, (int, float)) and not isinstance(target, bool)
    enough = (level for reached, level in LEVELS if number and target <= reached)  # type: ignore
    return next(enough, LEVELS[-1][1])


def faster(recipe: str, target: Scalar) -> str:
    """Return flags that reach a useful accuracy faster than the named recipe, or ''."""
    lowest = LEVELS[0][0]
    if recipe == "finetune":  # a sprint does not start from weights
        return ""
    if recipe != "sprint":
        return "--recipe sprint"
    above = isinstance(target, float) and target > lowest
    return f"--recipe sprint --target-accuracy {lowest}" if above else ""
