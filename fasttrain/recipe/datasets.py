"""The names of data sets, and what else --dataset may be: a path.

Standard library only, so that a misspelt name is refused before anything is imported.
"""

from __future__ import annotations

import difflib
import os

from ..errors import UsageError, shown

NAMES = ("cifar10", "cifar100", "mnist", "synthetic")


def is_path(dataset: str) -> bool:
    """Return whether `dataset` is a path, not the name of a data set."""
    return dataset not in NAMES


def refuse_near_miss(dataset: str) -> None:
    """Raise UsageError for a misspelt name: not a name, nor an existing path, but almost a name."""
    if is_path(dataset) and not os.path.lexists(dataset):
        plain = dataset.lower().replace("-", "").replace("_", "")
        near = difflib.get_close_matches(plain, NAMES, n=1, cutoff=0.75)
        if near:
            raise UsageError(
                f"--dataset ({shown(dataset)}): neither the name of a data set nor a path that "
                f"exists. Did you mean {near[0]}?"
            )


def from_here(dataset: str) -> str:
    """Return a path as an absolute one, and a name, or nothing, as it is."""
    refuse_near_miss(dataset)
    return os.path.abspath(dataset) if dataset and is_path(dataset) else dataset


def title(dataset: str) -> str:
    """Return a name as it is, and of a path its last part."""
    return os.path.basename(os.path.abspath(dataset)) if is_path(dataset) else dataset
