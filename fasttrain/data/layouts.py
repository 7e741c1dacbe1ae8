"""Recognises the layout of a path given as --dataset: class folders, splits, a table, arrays.

It reads only names and opens no image. If it recognises nothing, the error lists what it accepts.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..errors import DataError
from . import arrays, folders, packed, tables
from .found import Found
from .listing import SPLITS

ACCEPTED = (
    "a folder of class folders; a folder with train/ and val/ or test/ of them; a .csv, .tsv or "
    ".jsonl with file_name and label; a .npz with train_images and train_labels; .parquet"
)


def find(path: Path) -> Found:
    """Return the data set at `path`; its images are not opened yet.

    Raises DataError if there is none or if its layout contradicts itself, EnvironmentProblem if it
    needs a package that is missing.
    """
    try:
        found = _of_file(path) if path.is_file() else _of_folder(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"--dataset ({path}): cannot be read ({why}). Check the path and its permissions."
        ) from None
    if not found.entries and not found.bad:
        left = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise DataError(f"--dataset ({path}): holds no images{left}. It can be {ACCEPTED}.")
    return found._replace(line=f"{path}: {found.line}, {counts(found)}")


def counts(found: Found) -> str:
    """Describe the number of classes, and of images in each split, in a few words."""
    splits = Counter(entry.split for entry in found.entries)
    classes = len({entry.label for entry in found.entries})
    images = ", ".join(f"{name} {splits[name]:,}" for name in SPLITS if splits[name])
    return f"{classes:,} classes, images: {images or 'none'}"


def _of_file(path: Path) -> Found:
    suffix = path.suffix.lower()
    if suffix in tables.SUFFIXES:
        return tables.find(path)
    if suffix == ".npz":
        return arrays.find(path)
    if suffix == ".parquet":
        return packed.find([path])
    raise DataError(
        f"--dataset ({path}): not a file format that fasttrain reads. It can be {ACCEPTED}. "
        "Unpack an archive first."
    )


def _of_folder(path: Path) -> Found:
    if not path.is_dir():
        raise DataError(
            f"--dataset ({path}): neither the name of a data set nor a path that exists. "
            f"It can be {ACCEPTED}."
        )
    # There, or in data/, Hugging Face's layout: searching every folder takes as long as a scan.
    sharded = sorted(one for at in (path, path / "data") for one in at.glob("*.parquet"))
    if sharded:
        return packed.find(sharded, root=path)
    return folders.find(path)
