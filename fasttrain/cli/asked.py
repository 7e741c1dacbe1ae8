"""Decides what the command line asks for: a new run, a run to resume, or a series of runs.

This happens before torch is imported, so that an unusable folder is refused at once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, UsageError
from ..parallel import launch
from ..recipe.recipe import Recipe, Scalar, make
from ..run import checks, folders


class Asked(NamedTuple):
    """What to train: `resumed` is the run, checkpoint or series to resume, None for a new run.

    `given` are the recipe's fields. `runs` is the number of runs of a series, 0 for a single run.
    """

    resumed: str | None
    given: dict[str, Scalar]
    runs: int


def asked(options: argparse.Namespace, given: dict[str, Scalar], place: launch.Place) -> Asked:
    """Return what the options ask for; OutputError if its folder cannot be used."""
    continued, count = None, options.runs or 0
    if options.resume is not None:
        named = None if options.resume is True else options.resume
        continued = checks.run_to_resume(
            named, options.out, runs=not count, series=place.world == 1
        )
    if continued:
        found = folders.read_recipe(continued) if continued.is_dir() else {}
        series = folders.series_of(continued) if continued.is_dir() and not found else {}
        if count and not series:
            raise UsageError(f"--runs ({count}): {continued} is no series. Leave it out.")
        given = {**_saved_recipe(continued, series), **given}
        count = count or series.get("asked", 0)
        if series and not count:
            raise UsageError(f"--resume ({continued}): how many runs? Add --runs.")
        if series and place.world > 1:
            raise UsageError(f"--resume ({continued}): a series needs one process.")
    folder = checks.folder_of(continued) if continued else options.out
    new, seed = continued is None, make(given).seed
    folders.seed_folders(folders.RUNS, seed, count)
    if folder and count:
        checks.check_series(folder, seed, count, new=new, overwrite=options.overwrite)
    elif folder:
        checks.check_free(folder, new=new, overwrite=options.overwrite)
    return Asked(str(continued) if continued else None, given, count)


def _saved_recipe(continued: Path, series: dict[str, Any]) -> dict[str, Scalar]:
    try:
        file = checks.folder_of(continued) / "recipe.json"
        saved = series["recipe"] if series else json.loads(file.read_text(encoding="utf-8"))
        return Recipe.saved(saved).as_dict()
    except FileNotFoundError:
        what = (
            "not a run directory" if continued.is_dir() else "not a checkpoint in a run directory"
        )
        what = what if continued.exists() else "not found"
        raise CheckpointError(f"--resume ({continued}): {what}. Name one that is.") from None
    except (ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            f"--resume ({continued}): its recipe is damaged ({error}). Start a new run."
        ) from None
