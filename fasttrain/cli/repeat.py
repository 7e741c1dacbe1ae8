"""`--runs N`: trains the same recipe with N seeds and reports mean and spread.

The accuracy of one run is a single sample; judging a recipe needs several.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from ..console.console import Display
from ..errors import CheckpointError, UsageError
from ..machine import environment
from ..recipe.recipe import Recipe
from ..run import checks, lock, new_folders, resume
from ..run.folders import (
    RUNS,
    SERIES,
    is_trained,
    own_files,
    read_recipe,
    seed_folders,
    seeds,
    series_of,
)
from ..run.train import train
from ..storage import atomic
from ..storage.paths import some_path
from .spread import describe, sum_up

KEPT = [
    *("best_test_accuracy", "final_test_accuracy", "final_test_accuracy_with_flips", "epochs"),
    *("test_accuracy", "best_val_accuracy", "final_val_accuracy"),
    *("train_seconds", "seconds_to_target", "seconds_to_target_without_compile"),
    *("fp32_gemm_rate", "fp32_operations_to_target"),
]


def train_runs(
    recipe: Recipe,
    runs: int,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    continued: Path | None = None,
    override: bool = False,
    profile: bool = False,
    display: Display | None = None,
    command: str = "fasttrain.train_runs",
) -> dict[str, Any]:
    """Train `runs` runs one after the other, with seeds from `recipe.seed` on, into `out`/seed-N.

    Writes and returns series.json: the request, every finished run, their mean and spread.
    `continued` is the folder of a series to resume; finished runs in it are not repeated. The other
    arguments and the errors raised are those of `train`.
    """
    display = display or Display()
    out, continued = some_path(out), some_path(continued)
    before = _resumable(continued, recipe, runs, override=override) if continued else {}
    if continued and _is_done(before, recipe, runs):
        display.log(f"{continued} is finished: nothing to do.")
        return before
    name = f"{recipe.recipe}-{runs}-runs"
    folder = continued or out or new_folders.new_folder(RUNS, name, datetime.now())
    checks.check_series(folder, recipe.seed, runs, new=not continued, overwrite=overwrite)
    paths = seed_folders(folder, recipe.seed, runs)
    rows: list[dict[str, Any]] = []
    asked = {"command": command, "asked": runs, "runs": rows, "recipe": recipe.as_dict()}

    def begin() -> None:
        if not rows:
            if overwrite:
                _clear(folder, paths)
            atomic.write_json(folder / SERIES, asked)

    made = [] if continued or out else [folder]
    with _alone(folder, new=not continued, overwrite=overwrite, made=made):
        if not is_trained(folder):
            atomic.write_json(folder / SERIES, asked)
        for number, path in enumerate(paths, start=1):
            there = path if continued and read_recipe(path) else None
            seed = recipe.seed + number - 1
            display.log(f"run {number} of {runs}, seed {seed}")
            train(
                replace(recipe, seed=seed),
                out=path,
                overwrite=overwrite,
                continued=there,
                override=override and there is not None,
                profile=profile,
                display=display,
                command=command,
                began=perf_counter(),
                series=folder,
                begun=begin,
            )
            summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
            rows.append({"seed": seed, **{key: summary[key] for key in KEPT if key in summary}})
            atomic.write_json(folder / SERIES, asked)
        found = {**asked, **sum_up(rows, target=recipe.target_accuracy)}
        atomic.write_json(folder / SERIES, {**found, "environment": environment.describe()})
    display.log(describe(found))
    return found


def _resumable(continued: Path, recipe: Recipe, runs: int, *, override: bool) -> dict[str, Any]:
    """Return the series to resume; raise before any training if it cannot be resumed."""
    found = series_of(continued)
    if not found:
        raise CheckpointError(f"series ({continued}): there is none. Name the folder of one.")
    if runs < found["asked"]:
        raise UsageError(
            f"--runs ({runs}): the series to be resumed has {found['asked']}. Leave it out, or "
            "ask for more."
        )
    saved = Recipe.saved(found["recipe"])
    resume.check_changes(saved, recipe, override=override)
    return found


def _is_done(found: dict[str, Any], recipe: Recipe, runs: int) -> bool:
    """Return whether the series found already has all runs of this same request."""
    complete = len(found["runs"]) == found["asked"] == runs
    return complete and Recipe.saved(found["recipe"]) == recipe


@contextmanager
def _alone(folder: Path, *, new: bool, overwrite: bool, made: Sequence[Path]) -> Iterator[None]:
    """Lock a series' folder; a new series that fails before any training leaves no files."""
    made = [*made, *new_folders.missing(folder)]
    atomic.make_folder(folder)
    held = lock.acquire(folder)
    try:
        if new:
            checks.check_new(folder, overwrite, series=True)
        atomic.check_writable(folder)
        atomic.remove_leftovers(folder)
        for file in [] if is_trained(folder) or not new else own_files(folder):
            atomic.remove(file)  # from a series killed before it trained
        yield
    except Exception:
        if new and not is_trained(folder):
            new_folders.withdraw(folder, made)
        raise
    finally:
        lock.release(held)


def _clear(folder: Path, paths: Sequence[Path]) -> None:
    """Remove the runs of a replaced series, except the first, which the new series now uses."""
    old = [file for run in seeds(folder) if run != paths[0] for file in own_files(run)]
    for file in [folder / SERIES, *old]:
        # Keep recipe.json: a folder with other files can be replaced only while it is a run.
        if file.exists() and not (file.name == "recipe.json" and file.parent in paths):
            atomic.remove(file)
