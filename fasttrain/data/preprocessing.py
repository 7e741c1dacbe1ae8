"""Everything that happens to an image between its file and the network, as one value.

Training, evaluation, Grad-CAM, prediction and export read it from the checkpoint, so that what is
deployed is what was trained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..recipe.recipe import Recipe
from . import CLASSES, Statistics, cifar10, pictures


class Preprocessing(NamedTuple):
    """How an image becomes the network's input: decoded upright to RGB, resized by `fit` to `side`
    x `side` pixels, divided by 255, normalised by channel; and the names of the outputs.

    `mean` and `std` are of red, green and blue in 0..1; `rule` is the version of decoding and
    resizing (pictures.RULE).
    """

    side: int
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    rule: int = pictures.RULE

    @classmethod
    def saved(cls, kept: dict[str, Any] | None, recipe: Recipe) -> Preprocessing:
        """The preprocessing of a checkpoint: `kept` is what origin.about gave.

        A run of release 0.1 kept none: it was trained on CIFAR-10, or on synthetic images that are
        normalised like it. Raises KeyError or TypeError for a damaged one.
        """
        if not kept:
            std = cifar10.REFERENCE_STD if recipe.statistics == "reference" else cifar10.STD
            return cls(32, "crop", cifar10.MEAN, std, CLASSES)
        mean, std, classes = (tuple(kept[name]) for name in ("mean", "std", "classes"))
        return cls(int(kept["side"]), recipe.fit, mean, std, classes, int(kept.get("rule", 1)))

    @property
    def statistics(self) -> Statistics:
        """The normalisation."""
        return Statistics(self.mean, self.std)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for model.json and for the metadata of an exported file."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self._asdict().items()}

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The image as uint8 (side, side, 3) RGB; pictures.Unusable if it is damaged."""
        return pictures.pixels(image, self.side, fit=self.fit)
