"""The named recipes: what each asks for where it differs from a Recipe's defaults.

Plain data, so that a new recipe is a few lines here and nothing anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .fields import Scalar

MODELS = ("resnet18", "resnet34", "resnet50", "wrn-16-8", "wrn-28-10", "sprint")

RECIPES: dict[str, dict[str, Scalar]] = {
    "resnet18": {},
    # The source experiment, as far as it is known. It also rotated by up to 7 degrees: left out.
    "reference": {
        "lr": 0.0534,
        "weight_decay": 0.0,
        "crop_padding": 0,
        "cutout": 16,
        "cutout_probability": 0.5,
        "statistics": "reference",
    },
    # Measured in benchmarks/results/sprint-*.json; what each means is in README's "Sprint".
    "sprint": {
        "model": "sprint",
        "target_accuracy": 0.9253,
        "batch_size": 500,
        "lr": 0.16,
        "filters": "muon",
        "momentum": 0.85,
        "weight_decay": 3e-3,
        "scheduler": "linear",
        "label_smoothing": 0.2,
        "crop_padding": 2,
        "border": "reflect",
        "alternate": True,
        "cutout": 0,
        "test_flips": True,
    },
    # For --init: a rate so low that the weights keep what they know. Not measured.
    "finetune": {
        "epochs": 20,
        "lr": 0.01,
        "scheduler": "cosine",
        "label_smoothing": 0.1,
        "cutout": 0,
    },
}

# What a sprint needs for a target accuracy: the first level that is not below it. Width gains
# more than epochs: 64,256,256 reached 93.32 % after 16 of them, and 96,320,320 stays where it is,
# 93.81 % after 13, 94.03 after 16 (mean of three), 93.92 after 18, when it knows 99 % of the
# training images. Six epochs reached 92.3 % where eight are asked for here. Batches of 1000 reached
# 93.07 and 92.84 % there, those of 500 92.62, 92.83 and 92.77 %; but for 94 %, 17 epochs of
# 96,320,320 in 1000 ended at 93.72 %. The last level is not measured.
LEVELS: list[tuple[float, dict[str, Scalar]]] = [
    (0.88, {"widths": "36,72,144", "epochs": 4}),
    (0.9253, {"widths": "64,256,256", "epochs": 8}),
    (0.94, {"widths": "128,384,384", "epochs": 12, "crop_padding": 4}),
    (0.95, {"widths": "128,384,384", "epochs": 24, "crop_padding": 4}),
]


def settings(name: str, given: Mapping[str, Any]) -> dict[str, Scalar]:
    """What the named recipe sets, for the target that is given or, where that is none, its own."""
    found = RECIPES[name]
    if name != "sprint":
        return found
    target = given.get("target_accuracy")
    return {**found, **level(found["target_accuracy"] if target is None else target)}


def level(target: Scalar) -> dict[str, Scalar]:
    """The sprint's settings for a target; beyond the last level, the last one's."""
    number = isinstance(target, (int, float)) and not isinstance(target, bool)
    enough = (level for reached, level in LEVELS if number and target <= reached)  # type: ignore
    return next(enough, LEVELS[-1][1])


def faster(recipe: str, target: Scalar) -> str:
    """The flags of what reaches an accuracy worth having sooner than the named recipe; or none."""
    lowest = LEVELS[0][0]
    if recipe == "finetune":  # a sprint does not start from weights
        return ""
    if recipe != "sprint":
        return "--recipe sprint"
    above = target is None or (isinstance(target, float) and target > lowest)
    return f"--recipe sprint --target-accuracy {lowest}" if above else ""
