"""The command line: argv -> Recipe -> command; the only place that prints or exits.

Every Recipe field is a flag. Flags are parsed and checked before torch is imported, so `--help` and
a typing error answer at once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO, cast

from ..console.stdout import BrokenPipeSafe, print_error
from ..errors import CheckpointError, FasttrainError, ReportedElsewhere, Stopped, UsageError
from ..parallel import launch
from ..recipe.recipe import Recipe, Scalar, make
from ..run import folders, lock
from .flags import read

BEGAN = perf_counter()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status. Only a bug of ours shows a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    given: dict[str, Scalar] = {}
    try:
        try:
            name, options, given = read(arguments)
        except UsageError as error:
            raise error if launch.is_reporter() else ReportedElsewhere(error.code) from None
        command = f"python -m fasttrain {shlex.join(arguments)}".rstrip()
        return run(name, options, given, command=command)
    except ReportedElsewhere as error:
        return error.code
    except (FasttrainError, Stopped) as error:
        return _report_error(str(error), error.code)
    except (RuntimeError, MemoryError) as error:
        from ..machine import auto, memory

        if not memory.is_out_of_memory(error):
            raise
        recipe = make(given)
        short = memory.out_of_memory(recipe.batch_size, auto.device(recipe.device))
        return _report_error(str(short), short.code)


def run(name: str, options: argparse.Namespace, given: dict[str, Scalar], *, command: str) -> int:
    """Do what was read; the heavy imports happen here, after what can be refused without them."""
    place = launch.place()
    alone = "--runs" if name == "train" and options.runs else name
    if place.world > 1 and alone not in ("train", "find-lr"):
        raise UsageError(f"{alone}: needs one process. Start it without torchrun.")
    count = 0
    if name == "train" and place.world == 1:
        continued, given, count = asked = _checked(options, given, place)
    from rich.console import Console

    from ..console.console import Display
    from ..parallel.distributed import joined
    from . import commands

    display = Display(
        Console(file=cast(TextIO, BrokenPipeSafe(sys.stdout))) if place.rank == 0 else None
    )
    if name == "data":
        return _data(make(given), display)
    if name == "explain":
        commands.explain_run(
            options.run,
            sample=options.sample,
            image=options.image,
            device=options.device,
            display=display,
        )
    elif name == "report":
        commands.rebuild(options.run, display=display)
    elif name == "compare":
        commands.compare_runs(options.runs, page=options.out, display=display)
    elif name == "doctor":
        from ..doctor import doctor

        task = doctor.find_batch_size if options.find_batch_size else doctor.examine
        task(make(given), display=display)
    elif name == "find-lr":
        with joined(place, device=str(given.get("device", "auto"))) as group:
            commands.search_lr(make(given), display=display, group=group)
    elif count:
        from .repeat import train_runs

        if options.resume is not None and continued is None:
            display.log("nothing to resume: starting a new series")
        train_runs(
            make(given),
            count,
            out=options.out,
            overwrite=options.overwrite,
            continued=Path(continued) if continued else None,
            override=options.override and continued is not None,
            profile=options.profile,
            display=display,
            command=command,
        )
    else:
        with joined(place, device=str(given.get("device", "auto"))) as group:
            if group.world > 1:  # the first one looks: the others might find what it has made
                asked = group.broadcast(_checked(options, given, place) if group.first else None)
            continued, given, _ = asked
            if options.resume is not None and continued is None:
                display.log("nothing to resume: starting a new run")
            commands.train(
                make(given),
                out=options.out,
                overwrite=options.overwrite,
                continued=Path(continued) if continued else None,
                override=options.override and continued is not None,
                profile=options.profile,
                display=display,
                group=group,
                command=command,
                began=BEGAN,
            )
    return 0


def _checked(
    options: argparse.Namespace, given: dict[str, Scalar], place: launch.Place
) -> tuple[str | None, dict[str, Scalar], int]:
    """What is to be resumed, what was given laid over its recipe, and the number of runs of a
    series, 0 for a run; OutputError if it, or the folder of a new one, cannot be had."""
    continued, count = None, options.runs or 0
    if options.resume is not None:
        named = None if options.resume is True else options.resume
        continued = lock.run_to_resume(named, options.out, runs=not count, series=place.world == 1)
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
    folder = lock.folder_of(continued) if continued else options.out
    new, seed = continued is None, make(given).seed
    folders.seed_folders(lock.RUNS, seed, count)
    if folder and count:
        lock.look_series(folder, seed, count, new=new, overwrite=options.overwrite)
    elif folder:
        lock.check_free(folder, new=new, overwrite=options.overwrite)
    return str(continued) if continued else None, given, count


def _saved_recipe(continued: Path, series: dict[str, Any]) -> dict[str, Scalar]:
    import json

    try:
        file = lock.folder_of(continued) / "recipe.json"
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


def _data(recipe: Recipe, display: Any) -> int:
    from . import data

    data.examine(recipe, display=display)
    return 0


def _report_error(message: str, code: int) -> int:
    print_error(f"fasttrain: error: {message}")
    return code
