"""The check of an exported file against the network that was trained.

A file is read back by its own runtime and asked about the same images as the eager network behind
Pillow's resize, so that one wrong step anywhere between bytes and probabilities is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import ExportError, shown
from ..predict.classifier import Classifier

TOLERANCE = 1e-4  # of a probability, in float32
BATCHES = (1, 2, 7)
NOISE = sum(BATCHES)  # images of each size

Runtime = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""images uint8 (N, H, W, 3) -> logits and probabilities, float32 (N, classes)."""


class Case(NamedTuple):
    """Images of one size, uint8 (N, H, W, 3), and their probabilities, float32 (N, classes)."""

    what: str
    images: np.ndarray
    expected: np.ndarray


def cases(classifier: Classifier, held_out: np.ndarray, *, resizes: bool) -> list[Case]:
    """The held-out images, uint8 (N, side, side, 3), and noise of their size and, where the file
    resizes, of a larger and a smaller one."""
    side = classifier.preprocessing.side
    sizes = [(side, side)]
    if resizes:
        sizes += [(3 * side + 7, 2 * side + 1), (max(1, side // 2), max(1, side - 3))]
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (NOISE, *size, 3), np.uint8) for size in sizes]
    named = [("held out", held_out)] * bool(len(held_out)) + [("noise", each) for each in noise]
    return [Case(what, images, _eager(classifier, images)) for what, images in named]


def verified(name: str, opened: Callable[[], Runtime], given: Sequence[Case]) -> dict[str, Any]:
    """How far the runtime of format `name` is from what was expected: numbers for export.json.

    Raises ExportError if the file cannot be opened or used, if a probability differs by more than
    TOLERANCE, or a class where the two most probable ones are further apart than that.
    """
    try:
        return _compared(name, opened(), given)
    except ExportError:
        raise
    except Exception as error:  # a runtime can raise anything
        first = (str(error).splitlines() or [""])[0]
        why = shown(f"{type(error).__name__}: {first}".rstrip(":. "), 250)
        raise ExportError(
            f"--format ({name}): the file that was written cannot be used: {why}. "
            "Nothing was kept. Use another --format, and report this."
        ) from error


def _compared(name: str, runtime: Runtime, given: Sequence[Case]) -> dict[str, Any]:
    worst, same, far, count = 0.0, 0, 0, 0
    for _, images, expected in given:
        parts = [runtime(batch) for batch in _batches(images)]
        logits, found = (np.concatenate(each) for each in zip(*parts, strict=True))
        differences = [np.abs(each - expected) for each in (found, _softmax(logits))]
        worst = float(np.max([worst, *(each.max() for each in differences)]))  # NaN stays
        equal = found.argmax(axis=1) == expected.argmax(axis=1)
        two = np.sort(expected, axis=1)[:, -2:]
        far += int((~equal & (two[:, -1] - two[:, 0] > TOLERANCE)).sum())
        same, count = same + int(equal.sum()), count + len(images)
    if not worst <= TOLERANCE or far:
        raise ExportError(
            f"--format ({name}): the file's probabilities differ from the network's by {worst:.2g} "
            f"(allowed: {TOLERANCE:g}), and {count - same} of {count} images get another class, so "
            "nothing was written. Use another --format, and report this."
        )
    return {"images": count, "same_class": same, "max_difference_of_probabilities": worst}


def _eager(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    fitted = [classifier.preprocessing.pixels(Image.fromarray(image)) for image in images]
    return classifier.probabilities(np.stack(fitted))


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    for size in cycle(BATCHES):
        if start >= len(images):
            return
        yield np.ascontiguousarray(images[start : start + size])
        start += size


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
