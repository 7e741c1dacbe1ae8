"""The arrays of analysis.npz: images and maps, of the promised shapes, each row with its words.

A gallery that shows an image under another one's name would be worse than none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .files import damaged
from .records import Mistakes

PICTURES = ("images", "label_error_images", "sample_originals", "sample_augmented")
MAPS = ("predicted_maps", "true_maps")
LABELS = "sample_labels"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The known arrays of analysis.npz, each of the shape and type that is promised."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (*PICTURES, *MAPS, LABELS) if name in archive}
    except Exception as problem:  # zipfile, zlib and numpy each have their own words for damage
        raise damaged(path, problem) from None
    for name, array in arrays.items():
        fits = array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8
        if name in MAPS:
            fits = array.ndim == 3 and array.dtype.kind == "f"
        elif name == LABELS:
            fits = array.ndim == 1 and array.dtype.kind in "iu"
        if not fits:
            raise damaged(path, f"{name} is {array.dtype} of shape {array.shape}")
    return arrays


def paired(
    arrays: dict[str, np.ndarray], mistakes: Mistakes, notes: list[str]
) -> dict[str, np.ndarray]:
    """The arrays whose rows are those of misclassified.json; a note if some are not."""
    wanted = {name: len(mistakes.shown) for name in ("images", *MAPS)}
    wanted |= {"label_error_images": len(mistakes.label_errors)}
    if {"sample_originals", "sample_augmented"} <= arrays.keys():
        wanted |= {name: len(arrays["sample_originals"]) for name in ("sample_augmented", LABELS)}
    strange = [n for n, count in wanted.items() if n in arrays and len(arrays[n]) != count]
    if strange:
        why = "is of another analysis than misclassified.json"
        notes.append(f"analysis.npz ({', '.join(strange)}) {why}: run `fasttrain explain` again.")
    return {name: array for name, array in arrays.items() if name not in strange}
