"""Explains a trained run: evaluates its best checkpoint and computes Grad-CAM of its mistakes.

It writes what the report shows, so that the report can be drawn again without the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..loaders import build as loaders_build
from ..storage.atomic import write_atomically, write_json
from . import analysis, one_image
from .analysis import CONFIDENT, Predictions
from .gradcam import GradCAM
from .subject import Subject

SAMPLES = 16


def explain(subject: Subject, run: Path, *, sample: str = "confident") -> dict[str, Any]:
    """Evaluate `subject`, write the data of its report, return the content of class_accuracy.json.

    Writes class_accuracy.json, misclassified.json and analysis.npz. `sample` is "confident" or
    "random" (with the recipe's seed).
    """
    predictions, names, files = predict(subject), subject.data.classes, subject.files
    chosen = analysis.mistakes(predictions, sample=sample, seed=subject.recipe.seed)
    suspects = analysis.label_errors(predictions)
    rule = CONFIDENT if sample == "confident" else f"random, seed {subject.recipe.seed}"
    wrong = int((predictions.predicted != predictions.labels).sum())
    classes = {"split": subject.split, **analysis.by_class(predictions, names)}
    write_json(run / "class_accuracy.json", classes)
    listed = {
        "split": subject.split,
        "rule": rule,
        "cam_layer": subject.stages[-1],
        "mistakes": wrong,
        "images": analysis.describe(predictions, chosen, names, files),
        "label_errors": analysis.describe(predictions, suspects, names, files),
    }
    write_json(run / "misclassified.json", listed)
    originals, augmented, labels = samples(subject)
    arrays = {
        "images": np.asarray(subject.analysed.images[chosen]),
        "predicted_maps": gradcam_maps(subject, chosen, predictions.predicted[chosen]),
        "true_maps": gradcam_maps(subject, chosen, predictions.labels[chosen]),
        "label_error_images": np.asarray(subject.analysed.images[suspects]),
        "sample_originals": originals,
        "sample_augmented": augmented,
        "sample_labels": labels,
    }
    packed = BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    write_atomically(run / "analysis.npz", packed.getvalue())
    return classes


def predict(subject: Subject) -> Predictions:
    """Predict every image of `subject.analysed`, in the precision of training's evaluation."""
    found = subject.classifier.probabilities(subject.analysed.images)
    return Predictions(found, np.asarray(subject.analysed.labels))


def gradcam_maps(subject: Subject, indices: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM of the last stage (M, side, side) float16 in 0..1, for one class per image."""
    if len(indices) == 0:
        return np.zeros((0, subject.data.side, subject.data.side), np.float16)
    images = prepare(subject, indices)
    with GradCAM(subject.model, subject.stages[-1]) as cam:
        found = cam(images, torch.as_tensor(classes, device=subject.classifier.device))
    return found.cpu().numpy().astype(np.float16)


def guess(subject: Subject, index: int) -> tuple[int, int]:
    """Return the (predicted, true) class of an image; UsageError if there is no such image."""
    count = len(subject.analysed.labels)
    if not 0 <= index < count:
        raise UsageError(
            f"--image ({index}): must be from 0 to {count - 1}, the {subject.split} images of this "
            "run. See --help."
        )
    with torch.no_grad():
        logits = subject.model(prepare(subject, np.array([index])))
    return int(logits.argmax()), int(subject.analysed.labels[index])


def layer_maps(subject: Subject, index: int, classes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Grad-CAM of an image in all stages; layer -> (side, side) for each class."""
    return one_image.layer_maps(
        subject.classifier, np.asarray(subject.analysed.images[index]), classes
    )


def prepare(subject: Subject, indices: np.ndarray) -> Tensor:
    """The images of `subject.analysed` at `indices`, normalised, on the device."""
    return subject.classifier.inputs(np.asarray(subject.analysed.images[indices]))


def samples(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first images of epoch 1 before and after augmentation, and their labels (S,).

    The images are uint8 (S, side, side, 3).
    """
    count = min(SAMPLES, len(subject.train.labels))
    order = loaders_build.training_draws(subject.recipe, subject.train)(1).order[:count]
    scale = subject.data.statistics
    batches = loaders_build.training_loader(subject.recipe, subject.train, count, scale)
    images, _ = next(iter(batches))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in scale)
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).byte()
    originals = np.stack([subject.train.images[i] for i in order])
    labels = np.asarray(subject.train.labels)[order]
    return originals, pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels
