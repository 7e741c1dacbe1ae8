"""Recipe: the settings of a training run, a frozen dataclass with one field per flag.

Standard library only, so that `--help` and errors about flags appear without importing torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from .fields import OWN, Scalar, choice, earlier, flag, line, number, pair, place, switch
from .named import LEVELS, RECIPES, fill
from .training import Training, check_pairs

__all__ = ["FIELDS", "LEVELS", "RECIPES", "Recipe", "Scalar", "flag", "make"]

SOURCE = "model_sha256"  # of a user's own network; recipe.json has it beside the fields


@dataclasses.dataclass(frozen=True)
class Recipe(Training):
    """Everything that decides what a training run computes.

    `Recipe(epochs=5)` is the default recipe with 5 epochs. `Recipe.named("sprint", epochs=3)` is
    `--recipe sprint --epochs 3`. Fields that are not given come from the recipe named by `recipe`,
    so `Recipe(recipe="sprint")` is the sprint. Numbers may be scalars of numpy or torch. Raises
    UsageError, with the flag, the value and its range, for an impossible value.
    """

    crop_padding: int = number(
        4, 0, 16, "augmentation", "random crop: pixels added on each side of a 32x32 image"
    )
    border: str = choice(
        "black", ("black", "reflect"), "augmentation", "padding: black, or the mirrored image"
    )
    flip: float = number(0.5, 0.0, 1.0, "augmentation", "probability of a horizontal flip")
    alternate: bool = switch("augmentation", "flip an image in every other epoch, not at random")
    cutout: int = number(
        8, 0, 32, "augmentation", "side of the CutOut hole in pixels of a 32x32 image; 0 is off"
    )
    cutout_probability: float = number(1.0, 0.0, 1.0, "augmentation", "probability of a hole")
    rotate: float = number(0.0, 0.0, 180.0, "augmentation", "rotation by up to so many degrees")
    zoom: str = pair(
        "1,1", 0.2, 5.0, "augmentation", "enlarged by a factor between the two, from 0.2 to 5"
    )
    brightness: float = number(0.0, 0.0, 1.0, "augmentation", "brightness times 1 +- up to this")
    contrast: float = number(0.0, 0.0, 1.0, "augmentation", "contrast times 1 +- up to this")
    saturation: float = number(0.0, 0.0, 1.0, "augmentation", "saturation times 1 +- up to this")
    mixup: float = number(
        0.0, 0.0, 100.0, "augmentation", "MixUp with shares of Beta(this, this); 0 is off"
    )
    cutmix: float = number(
        0.0, 0.0, 100.0, "augmentation", "CutMix with shares of Beta(this, this); 0 is off"
    )
    statistics: str = choice(
        "measured", ("measured", "reference"), "augmentation", "mean and deviation to normalise by"
    )

    dataset: str | os.PathLike[str] = place(  # noqa: RUF009 - kept as text
        "cifar10",
        "data",
        "NAME|PATH",
        "cifar10, cifar100, mnist, synthetic, or the path of a folder, table, .npz or Parquet",
    )
    data_dir: str | os.PathLike[str] | None = place(  # noqa: RUF009 - kept as text
        None, "data", "PATH", "archive or folder of a published data set (else cache or download)"
    )
    cache_dir: str | os.PathLike[str] | None = place(  # noqa: RUF009 - kept as text
        None, "data", "FOLDER", "for downloads and prepared pixels; none: the user's cache"
    )
    side: int | str = number(
        "auto", 8, 1024, "data", "side of the images in pixels; auto: by the median", also=("auto",)
    )
    classes: int | None = number(
        None, 2, 1000, "data", "classes of the synthetic data set; none: 10"
    )
    fit: str = choice("crop", ("crop", "squash", "pad"), "data", "how own images are made square")
    holdout: float = number(0.15, 0.01, 0.9, "data", "share held out of own images without splits")
    skip_bad_files: bool = switch("data", "leave out own files that cannot be used")
    train_limit: int | None = number(None, 1, 10**9, "data", "training images to use")
    test_limit: int | None = number(None, 1, 10**9, "data", "images to use of val and test, each")
    limits: str = choice(  # release 0.1 took the first images
        "class", ("class", "first"), "data", "limits: drawn by class, or the first", earlier="first"
    )
    loader: str = choice(
        "auto", ("auto", "dali", "resident", "kernel"), "data", "loader of the batches"
    )

    device: str = line("auto", "machine", "device: auto, cpu, cuda or cuda:N", metavar="DEVICE")
    amp: str = choice(
        "auto", ("auto", "bf16", "fp16", "off"), "machine", "mixed precision; auto: by hardware"
    )
    compile: str = choice("auto", ("auto", "on", "off"), "machine", "use torch.compile")
    graphs: str = choice("auto", ("auto", "on", "off"), "machine", "run a step as a CUDA graph")
    optimizer: str = choice(
        "auto",
        ("auto", "torch", "apex", "kernel", "adamw"),
        "machine",
        "AdamW, or the implementation of SGD",
    )
    tune: str = choice(  # release 0.1 chose by rule
        "cached", ("cached", "always", "off"), "machine", "measure what auto is", earlier="off"
    )
    seed: int = number(0, 0, 2**32 - 1, "machine", "random seed of weights, order and augmentation")
    deterministic: bool = switch("machine", "use only deterministic operations")
    save_every: float = number(
        600.0, 0.001, 1e9, "machine", "seconds between checkpoints within an epoch"
    )
    checkpoint_every: int | None = number(
        None, 1, 100_000, "machine", "also keep a numbered checkpoint every so many epochs"
    )
    keep: int | None = number(
        None, 1, 100_000, "machine", "numbered checkpoints to keep; none: all"
    )
    hang_timeout: float = number(
        300.0, 0.0, 1e6, "machine", "end training after so many seconds without progress; 0: never"
    )

    target_accuracy: float | None = number(
        None, 0.0, 1.0, "stopping", "stop at this accuracy on the held-out images (0.94 is 94 %)"
    )
    test_flips: bool = switch(
        "stopping", "also report the accuracy averaged over each image and its mirror image"
    )
    stop_after: int | None = number(
        None,
        1,
        100_000,
        "stopping",
        "stop after so many epochs without a better monitored score",
    )
    max_time: float | None = number(
        None, 0.001, 1e9, "stopping", "stop at the first epoch that ends after this many seconds"
    )
    track: str = line(
        *("none", "stopping", "tell wandb, mlflow or your own FUNCTION(event, values) each epoch"),
        metavar="NAME|MODULE:FUNCTION",
        form=OWN,
        known=("none", "wandb", "mlflow"),
    )
    cam_layer: str | None = line(
        None, "stopping", "Grad-CAM shows this module; none: the last with a map", metavar="NAME"
    )

    def __new__(cls, *args: Any, **given: Any) -> Recipe:
        """Record which fields are given, which a dataclass's `__init__` cannot know."""
        made = super().__new__(cls)
        object.__setattr__(made, "_given", {*tuple(FIELDS)[: len(args)], *given})
        return made

    def __post_init__(self) -> None:
        fill(self, vars(self).pop("_given"))
        check_pairs(self)

    @classmethod
    def named(cls, name: str, **fields: Any) -> Recipe:
        """Return the recipe of that name, as `--recipe` does, with `fields` changed."""
        return cls(recipe=name, **fields)

    @classmethod
    def saved(cls, fields: Mapping[str, Any]) -> Recipe:
        """Return the recipe that a run saved.

        A field that an earlier release did not know gets the value that it stood for there, not
        the value that a recipe of this name has today.
        """
        fields = {name: value for name, value in fields.items() if name != SOURCE}
        return cls(**{**{name: earlier(field) for name, field in FIELDS.items()}, **fields})

    def as_dict(self) -> dict[str, Scalar]:
        """Return the fields as plain values, for recipe.json."""
        return dataclasses.asdict(self)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Recipe)}


def make(given: Mapping[str, Any]) -> Recipe:
    """Return the recipe that `given` names, with the other given fields changed."""
    return Recipe(**given)
