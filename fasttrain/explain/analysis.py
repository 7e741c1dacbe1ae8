"""Analyses predictions: accuracy by class, confusion matrix, mistakes, likely label errors.

The functions take arrays and return plain values, so that they need neither a model nor a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

GALLERY = 25
LABEL_ERRORS = 20
# Below this accuracy a disagreement points to the network rather than to the label: at 0.8 one test
# image in five is a mistake, while about 0.5 % of CIFAR-10's test labels are wrong (Northcutt et
# al., 2021).
GOOD_ENOUGH = 0.8
CONFIDENT = "most confident mistakes first"


class Predictions(NamedTuple):
    """Predictions on a test set: `probabilities` float (N, classes), `labels` (N,)."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image (N,)."""
        return self.probabilities.argmax(axis=1)


def wilson(correct: int, count: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval (Wilson, 1927) of a share, by default 95 %; (0, 1) for no count."""
    if count == 0:
        return 0.0, 1.0
    share, spread = correct / count, z * z / count
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def by_class(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Return count, accuracy and interval of each class, and the confusion matrix.

    The matrix has a row per true class.
    """
    size = len(classes)
    cells = np.bincount(predictions.labels * size + predictions.predicted, minlength=size * size)
    confusion = cells.reshape(size, size)
    rows = []
    for number, name in enumerate(classes):
        count, correct = int(confusion[number].sum()), int(confusion[number, number])
        low, high = wilson(correct, count)
        accuracy = correct / count if count else None
        row = {"name": name, "count": count, "correct": correct, "accuracy": accuracy}
        rows.append({**row, "low": low, "high": high})
    return {**means(confusion), "classes": rows, "confusion": confusion.tolist()}


def means(confusion: np.ndarray) -> dict[str, float]:
    """Return balanced accuracy and macro F1 of a confusion matrix with a row per true class.

    Both are means in which every class counts the same. Balanced accuracy is over the classes that
    have images, macro F1 over those that have images or predictions.
    """
    hits, of, named = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recalls, f1 = hits[of > 0] / of[of > 0], 2 * hits / np.maximum(of + named, 1)
    there = of + named > 0
    balanced, macro = (float(m.mean()) if len(m) else 0.0 for m in (recalls, f1[there]))
    return {"balanced_accuracy": balanced, "macro_f1": macro}


def mistakes(predictions: Predictions, *, sample: str = "confident", seed: int = 0) -> np.ndarray:
    """Indices of up to 25 misclassified images: the most confident first, or a random sample."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    if sample == "random":
        chosen = np.random.default_rng(seed).permutation(wrong)[:GALLERY]
        return np.sort(chosen)
    confidence = predictions.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:GALLERY]


def label_errors(predictions: Predictions) -> np.ndarray:
    """Indices of up to 20 images whose label is likely wrong, the likeliest first.

    The rule is that of confident learning (Northcutt et al., 2021): the probability of another
    class is at least the mean probability of that class over the images with that label. The images
    are sorted by the difference between that probability and the label's. There are none if the
    accuracy is below GOOD_ENOUGH.
    """
    p, labels = predictions.probabilities, predictions.labels
    if not len(labels) or (predictions.predicted == labels).mean() < GOOD_ENOUGH:
        return np.zeros(0, int)
    rows = np.arange(len(labels))
    own = p[rows, labels]
    counts = np.bincount(labels, minlength=p.shape[1])
    usual = np.bincount(labels, weights=own, minlength=p.shape[1]) / np.maximum(counts, 1)
    other = predictions.predicted
    suspect = (other != labels) & (p[rows, other] >= usual[other]) & (counts[other] > 0)
    found = np.flatnonzero(suspect)
    margin = p[found, other[found]] - own[found]
    return found[np.argsort(-margin, kind="stable")][:LABEL_ERRORS]


def describe(
    predictions: Predictions,
    indices: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Index, true and predicted class, and confidence of the images at `indices`, and the path of
    each in `files`, if that has one for every image."""
    return [
        {
            "index": int(i),
            "true": classes[predictions.labels[i]],
            "predicted": classes[predictions.predicted[i]],
            "confidence": float(predictions.probabilities[i].max()),
            **({"file": files[i]} if files else {}),
        }
        for i in indices
    ]
