"""The command `data`: describes a data set and reports all problems of own images at once.

One complete report saves fixing one file, starting again, and finding the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..console.console import Display
from ..data import own, sets
from ..errors import DataError
from ..recipe.datasets import is_path
from ..recipe.recipe import Recipe


def examine(recipe: Recipe, *, display: Display | None = None) -> None:
    """Fetch and verify a published data set, or report every problem of own images.

    Raises DataError at the end if training would refuse the images.
    """
    display = display or Display()
    dataset = str(recipe.dataset)
    cache_dir = Path(recipe.cache_dir) if recipe.cache_dir else None
    sets.refuse_classes(dataset, recipe.classes)
    side = None if recipe.side == "auto" else int(recipe.side)
    if not is_path(dataset):
        folder = Path(recipe.data_dir) if recipe.data_dir else None
        options: dict[str, Any] = {"log": display.log, "bar": display.bar}
        options |= {"side": side, "classes": recipe.classes}
        for key, value in sets.describe(dataset, folder, cache_dir, **options).items():
            display.log(f"{key:14} {value}")
        return
    with display.counted() as counted:
        found = own.examine(
            Path(dataset),
            side=side,
            fit=recipe.fit,
            holdout=recipe.holdout,
            skip_bad_files=recipe.skip_bad_files,
            folder=own.where(cache_dir),
            log=display.log,
            scanning=counted("reading files"),
            preparing=counted("decoding images"),
        )
    for text in found.lines:
        display.log(text)
    if found.fatal:
        why = "; ".join(reason.rstrip(".") for reason in found.fatal)
        raise DataError(f"--dataset ({dataset}): cannot be trained on as it is: {why}.")
