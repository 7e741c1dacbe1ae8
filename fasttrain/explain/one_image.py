"""Grad-CAM of a single image, a data set's or a person's own, for several classes in every stage.

It needs the network alone, and no data set: that of the run may be on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..models.stages import stages
from ..predict.classifier import Classifier
from .gradcam import GradCAM


def stages_of(classifier: Classifier) -> tuple[str, ...]:
    """The names of the modules whose maps are shown: the one that is asked for, or the network's
    stages."""
    asked = classifier.recipe.cam_layer
    return (asked,) if asked else stages(classifier.module, side=classifier.preprocessing.side)


def layer_maps(
    classifier: Classifier, pixels: np.ndarray, classes: Sequence[int]
) -> list[dict[str, np.ndarray]]:
    """Grad-CAM of prepared pixels, uint8 (side, side, 3); layer -> (side, side) for each class."""
    images = classifier.inputs(np.stack([pixels] * len(classes)))
    names = stages_of(classifier)
    with GradCAM(classifier.module, *names) as cam:
        found = cam.layers(images, torch.as_tensor(list(classes), device=classifier.device))
    maps = {name: found[name].cpu().numpy() for name in names}
    return [{name: maps[name][row] for name in names} for row in range(len(classes))]


def likeliest(
    classifier: Classifier, pixels: np.ndarray, *, count: int = 2
) -> list[tuple[int, float]]:
    """The most probable classes of prepared pixels, uint8 (side, side, 3), with probabilities."""
    found = classifier.probabilities(pixels[None], batch_size=1)[0]
    return [(int(number), float(found[number])) for number in np.argsort(-found)[:count]]
