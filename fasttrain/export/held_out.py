"""The images of a run that an exported file is checked with, if they are on this machine.

An export never downloads a data set, and a run may have come from another machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..data import cache, origin
from ..engine.build import splits
from ..errors import FasttrainError
from ..recipe.datasets import is_path
from ..recipe.recipe import Recipe

MOST = 256


def images(recipe: Recipe, kept: dict[str, Any] | None) -> tuple[np.ndarray, str]:
    """Up to 256 of the images that judge the run, uint8 (N, side, side, 3), from all classes; none,
    and why, if they are not to be had."""
    none = np.zeros((0, 1, 1, 3), np.uint8)
    if not _at_hand(recipe):
        return none, "they are not on this machine"
    try:
        data = origin.restored(splits(recipe), kept)
    except FasttrainError as error:
        return none, str(error)
    count = len(data.test.labels)
    chosen = np.linspace(0, count - 1, min(count, MOST)).astype(int)
    return np.asarray(data.test.images[chosen]), ""


def _at_hand(recipe: Recipe) -> bool:
    """Whether loading them would not download anything."""
    dataset = str(recipe.dataset)
    if is_path(dataset):
        return os.path.lexists(dataset)
    if dataset == "synthetic" or recipe.data_dir:
        return True
    folder = cache.folder_of(dataset, Path(recipe.cache_dir) if recipe.cache_dir else None)
    return any(path.is_file() and path.name[0] != "." for path in _entries(folder))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
