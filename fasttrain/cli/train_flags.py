"""The flags of `train` that are not of the recipe: where the run is saved and what it resumes.

They say nothing about what is trained, so they are no fields of Recipe and change no result.
"""

from __future__ import annotations

import argparse

from ..errors import UsageError
from ..storage.paths import path
from . import values


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the run directory, and --runs and --profile."""
    runs = parser.add_argument_group("run (where it is saved)")
    runs.add_argument(
        "--out",
        type=path,
        metavar="FOLDER",
        help="run directory (default: runs/RECIPE-DATE-TIME)",
    )
    either = runs.add_mutually_exclusive_group()
    either.add_argument(
        "--resume",
        nargs="?",
        type=path,
        const=True,
        metavar="CHECKPOINT",
        help="continue from a checkpoint or run directory (default: that of --out, or the newest)",
    )
    runs.add_argument(
        "--override",
        action="store_true",
        help="with --resume: allow a recipe that would change the results",
    )
    either.add_argument(
        "--overwrite", action="store_true", help="replace the run that --out already holds"
    )
    runs.add_argument(
        "--runs",
        type=values.runs,
        metavar="INT",
        help="train this many runs, with seeds --seed, --seed + 1, ..., and report their spread",
    )
    runs.add_argument(
        "--profile",
        action="store_true",
        help="profile a few steps for TensorBoard and Perfetto and report where the time goes",
    )


def check(options: argparse.Namespace) -> None:
    """Raise UsageError for flags that do not go together."""
    if options.override and options.resume is None:
        raise UsageError("--override: goes with --resume. Add it, or leave --override out.")
