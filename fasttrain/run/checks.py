"""Checks, before torch is imported, that a run may use its folder; finds the one to resume.

A careless start can destroy a run of many hours. So a folder is used only if it has nothing to
lose, or if the user asks to continue or replace its run.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import OutputError, UsageError
from . import lock
from .folders import (
    RUNS,
    foreign_file,
    is_trained,
    newest,
    read_epochs,
    read_recipe,
    seed_folders,
    series_of,
)


def run_to_resume(
    asked: Path | None, out: Path | None, *, runs: bool = True, series: bool = True
) -> Path | None:
    """Return the run directory, checkpoint or series for --resume; None at a first launch.

    Without a path it is the newest in RUNS. `runs` and `series` select which kinds count.
    """
    if asked is None:
        if out is None:
            return newest(RUNS, runs=runs, series=series)
        return out if (out / "recipe.json").exists() or series_of(out) else None
    folder = folder_of(asked)
    if out is not None and out.resolve() != folder.resolve():
        raise UsageError(f"--out ({out}): --resume goes on in {folder}. Leave one of them out.")
    return asked


def check_arguments(continued: Path | None, *, overwrite: bool, override: bool) -> None:
    """Raise UsageError for arguments of a training that contradict each other."""
    if continued is None and override:
        raise UsageError("--override: goes with --resume. Add it, or leave --override out.")
    if continued is not None and overwrite:
        raise UsageError("--overwrite: a run is resumed or replaced. Leave one of them out.")


def folder_of(asked: Path) -> Path:
    """Return the run directory of a checkpoint, or `asked` itself if it is a folder."""
    return asked if asked.is_dir() else asked.parent.parent


def check_free(path: Path, *, new: bool, overwrite: bool = False, series: bool = False) -> None:
    """Raise OutputError if `path` cannot be used now; change nothing."""
    lock.check_unlocked(path)
    if new:
        check_new(path, overwrite, series=series)


def check_series(
    folder: Path, seed: int, count: int, *, new: bool, overwrite: bool = False
) -> None:
    """Raise OutputError if the folder of a series or of one of its runs cannot be used now."""
    paths = seed_folders(folder, seed, count)
    check_free(folder, new=new, overwrite=overwrite, series=True)
    for path in paths:
        check_free(path, new=not new and not read_recipe(path))


def check_new(path: Path, overwrite: bool, *, series: bool = False) -> None:
    """Raise OutputError unless a new run, or a new `series` of runs, may use `path`."""
    for parent in Path(os.path.realpath(path)).parents:
        if read_recipe(parent):
            raise OutputError(f"{path} is inside the run {parent}. Choose another --out.")
    recipe = read_recipe(path)
    others = {} if recipe else series_of(path)
    if (recipe or others) and is_trained(path):
        if overwrite and bool(others) == series:
            return
        rows, _ = read_epochs(path)
        why = f"already holds a run (epoch {len(rows)} of {recipe.get('epochs')})"
        if others:
            why = f"already holds a series ({len(others['runs'])} of {others['asked'] or '?'} runs)"
        what = "Use --resume to continue it or --overwrite to replace it"
        raise OutputError(f"{path} {why}. {'Choose another --out' if overwrite else what}.")
    file = None if recipe and overwrite else foreign_file(path)
    if file:
        why = f"holds files but no run of fasttrain ({file.relative_to(path)})"
        raise OutputError(f"{path} {why}. Choose another --out.")
