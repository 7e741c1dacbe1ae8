"""Reading of analysis.npz: images and maps, with checks of shape, type and row count.

The checks prevent a gallery that shows an image under the name of another.
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
    """Read the known arrays of analysis.npz; CheckpointError for a wrong shape or type."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (*PICTURES, *MAPS, LABELS) if name in archive}
    except Exception as problem:  # zipfile, zlib and numpy each raise their own errors
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
    """Return the arrays whose rows match misclassified.json; add a note if some do not."""
    wanted = {name: len(mistakes.shown) for name in ("images", *MAPS)}
    wanted |= {"label_error_images": len(mistakes.label_errors)}
    if {"sample_originals", "sample_augmented"} <= arrays.keys():
        wanted |= {name: len(arrays["sample_originals"]) for name in ("sample_augmented", LABELS)}
    mismatched = [n for n, count in wanted.items() if n in arrays and len(arrays[n]) != count]
    if mismatched:
        why = "is from another analysis than misclassified.json"
        notes.append(
            f"analysis.npz ({', '.join(mismatched)}) {why}: run `fasttrain explain` again."
        )
    return {name: array for name, array in arrays.items() if name not in mismatched}
