"""Makes the folder of a new run, and removes it again if the run never trained.

A start that fails before its first step leaves nothing behind that stands in the way of the next.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from ..errors import OutputError
from ..storage import atomic
from .folders import FOLDERS, LOCK, own_files, seeds


def new_folder(runs: Path, recipe_name: str, now: datetime) -> Path:
    """Make a new folder in `runs`, such as resnet18-20261123-210500, for a run without --out;
    add -2 and so on if another start took that name in the same second."""
    name = f"{recipe_name}-{now:%Y%m%d-%H%M%S}"
    atomic.make_folder(runs)
    for number in count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with atomic.reported(folder), suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def missing(path: Path) -> list[Path]:
    """Return `path` and those of its parents that do not exist yet, `path` first."""
    return [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]


def withdraw(path: Path, made: Sequence[Path]) -> None:
    """Remove, as far as possible, the files and folders of a run that never trained.

    `made` are the folders that the run created, inner ones first. The caller must hold the lock.
    """
    inside = [run / name for run in (path, *seeds(path)) for name in FOLDERS]
    with suppress(OutputError):
        for file in own_files(path):
            atomic.remove(file)
    for file in (run / LOCK for run in (*seeds(path), path)):
        with suppress(OSError):
            file.unlink()
    for folder in (*inside, *seeds(path), *made):
        with suppress(OSError):
            folder.rmdir()  # removes only empty folders
