"""What was asked: a frozen dataclass of scalars whose fields are the command line's flags.

Standard library only, so that `--help` and every complaint about a flag come before torch is
imported.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from .datasets import from_here
from .fields import Scalar, check, choice, flag, line, number, plain, switch, written
from .named import LEVELS, RECIPES, settings

__all__ = ["FIELDS", "LEVELS", "RECIPES", "Recipe", "Scalar", "flag", "make", "parse"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes; `Recipe(epochs=5)` is the mission,
    shorter, and `Recipe.named("sprint", epochs=3)` the command line's `--recipe sprint --epochs 3`.

    What is not given is what the recipe of that name has, so that no name stands over another
    recipe's content: `Recipe(recipe="sprint")` is the sprint. Numbers may be numpy's or torch's.
    Raises UsageError, naming the flag, the value and its range, when a field is impossible.
    """

    recipe: str = choice(
        "resnet18", ("resnet18", "reference", "sprint"), "recipe", "named defaults"
    )
    model: str = choice("resnet18", ("resnet18", "sprint"), "recipe", "the network")
    widths: str = line(
        "64,256,256",
        "recipe",
        "channels of the three stages of the sprint network",
        metavar="INT,INT,INT",
        form=r"[1-9]\d{0,3}(,[1-9]\d{0,3}){2}",
    )
    epochs: int = number(50, 1, 100_000, "recipe", "passes over the training images")
    batch_size: int = number(128, 1, 50_000, "recipe", "images per step, over all processes")
    lr: float | str = number(
        "auto", 1e-8, 1e3, "recipe", "learning rate; auto runs the range test first", also=("auto",)
    )
    momentum: float = number(0.9, 0.0, 0.9999, "recipe", "of SGD")
    weight_decay: float = number(5e-4, 0.0, 1.0, "recipe", "L2 penalty of SGD")
    filters: str = choice(
        "sgd", ("sgd", "muon"), "recipe", "what updates the filters of convolutions"
    )
    label_smoothing: float = number(
        0.0, 0.0, 0.9, "recipe", "share of each target that is spread over all classes"
    )
    scheduler: str = choice(
        "plateau",
        ("plateau", "onecycle", "cosine", "linear"),
        "recipe",
        "how the learning rate falls",
    )
    patience: int = number(3, 0, 1000, "recipe", "epochs without progress that plateau waits")
    factor: float = number(0.1, 1e-4, 0.9999, "recipe", "what plateau multiplies the rate by")
    threshold: float = number(
        0.001, 0.0, 1.0, "recipe", "gain in test accuracy, a fraction, that plateau calls progress"
    )
    monitor: str = choice(
        "accuracy",
        ("accuracy", "balanced_accuracy", "macro_f1", "loss"),
        "recipe",
        "what plateau and the best epoch go by, on the held-out images",
    )
    sync_bn: bool = switch("recipe", "BatchNorm over the images of all processes")

    crop_padding: int = number(
        4, 0, 16, "augmentation", "pixels around an image that the random crop moves over"
    )
    border: str = choice(
        "black",
        ("black", "reflect"),
        "augmentation",
        "what the random crop finds outside an image: nothing, or the image mirrored at its edge",
    )
    flip: float = number(0.5, 0.0, 1.0, "augmentation", "probability of a horizontal flip")
    alternate: bool = switch(
        "augmentation", "draw an image's flip once, then show both sides in turn"
    )
    cutout: int = number(8, 0, 32, "augmentation", "side of the CutOut hole in pixels; 0 is none")
    cutout_probability: float = number(
        1.0, 0.0, 1.0, "augmentation", "probability that an image gets its hole"
    )
    statistics: str = choice(
        "measured",
        ("measured", "reference"),
        "augmentation",
        "normalisation: CIFAR-10's own, or the source experiment's",
    )

    dataset: str | os.PathLike[str] = line(  # noqa: RUF009 - kept as text
        "cifar10",
        "data",
        "cifar10, cifar100, mnist, synthetic, or the path of a folder, table, .npz or Parquet",
        metavar="NAME|PATH",
    )
    data_dir: str | os.PathLike[str] | None = line(  # noqa: RUF009 - kept as text
        None,
        "data",
        "the archive or folder of a published data set; without it the cache, then the network",
        metavar="PATH",
    )
    side: int | str = number(
        "auto", 8, 1024, "data", "pixels along an image; auto goes by the median", also=("auto",)
    )
    fit: str = choice("crop", ("crop", "squash", "pad"), "data", "how an own image gets square")
    holdout: float = number(0.15, 0.01, 0.9, "data", "share held out if all own images are train")
    skip_bad_files: bool = switch("data", "go on without own files that cannot be used")
    train_limit: int | None = number(None, 1, 10**9, "data", "training images, drawn per class")
    test_limit: int | None = number(None, 1, 10**9, "data", "the same, of each other split")
    loader: str = choice(
        "auto", ("auto", "dali", "resident", "kernel"), "data", "what augments and normalises"
    )

    device: str = line("auto", "machine", "auto, cpu, cuda or cuda:N", metavar="DEVICE")
    amp: str = choice(
        "auto",
        ("auto", "bf16", "fp16", "off"),
        "machine",
        "mixed precision; auto asks the hardware",
    )
    compile: str = choice("auto", ("auto", "on", "off"), "machine", "torch.compile")
    graphs: str = choice("auto", ("auto", "on", "off"), "machine", "a step as one CUDA graph")
    optimizer: str = choice("auto", ("auto", "torch", "apex", "kernel"), "machine", "whose SGD")
    seed: int = number(0, 0, 2**32 - 1, "machine", "of weights, order and augmentation")
    deterministic: bool = switch("machine", "refuse operations that differ from run to run")
    save_every: float = number(
        600.0, 0.001, 1e9, "machine", "seconds between saves in an epoch, besides that at its end"
    )

    target_accuracy: float | None = number(
        None, 0.0, 1.0, "stopping", "stop at this test accuracy, a fraction"
    )
    test_flips: bool = switch(
        "stopping", "report at the end, too, how the mean over an image and its mirror image does"
    )
    max_time: float | None = number(
        None, 0.001, 1e9, "stopping", "stop at the first epoch that ends after so many seconds"
    )

    def __new__(cls, *args: Any, **given: Any) -> Recipe:
        """Note which fields are given: the initialiser of a dataclass cannot tell them."""
        made = super().__new__(cls)
        object.__setattr__(made, "_given", {*tuple(FIELDS)[: len(args)], *given})
        return made

    def __post_init__(self) -> None:
        given = vars(self).pop("_given")
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(field, getattr(self, field.name)))
            if field.name in given:
                check(field, getattr(self, field.name))
        target = {"target_accuracy": self.target_accuracy}
        for name, value in settings(self.recipe, target).items():
            if name not in given:
                object.__setattr__(self, name, value)

    @classmethod
    def named(cls, name: str, **fields: Any) -> Recipe:
        """The recipe of that name, as `--recipe` has it, with `fields` laid over it."""
        return cls(recipe=name, **fields)

    @classmethod
    def saved(cls, fields: Mapping[str, Any]) -> Recipe:
        """The recipe that a run saved, by an earlier release, too: a field that it did not have
        is what it was before there was the field, whatever a recipe of its name has today."""
        return cls(**{**{name: field.default for name, field in FIELDS.items()}, **fields})

    def as_dict(self) -> dict[str, Scalar]:
        """The fields as plain values, for recipe.json."""
        return dataclasses.asdict(self)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Recipe)}


def make(given: Mapping[str, Scalar]) -> Recipe:
    """The named recipe of `given` with the given fields laid over it."""
    fields: dict[str, Any] = dict(given)
    return Recipe(**fields)


def parse(name: str, text: str) -> Scalar:
    """The value of field `name` that a person wrote as `text`."""
    return from_here(text) if name == "dataset" else written(FIELDS[name], text)
