"""The command line: argv -> Recipe -> command; the only place that prints or exits.

Every Recipe field is a flag. Flags are parsed and checked before torch is imported, so `--help` and
a typing error answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from .errors import CheckpointError, FasttrainError, OutOfMemory
from .flags import read
from .recipe import Recipe, Scalar, make

BEGAN = perf_counter()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status. Only a bug of ours shows a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    given: dict[str, Scalar] = {}
    try:
        name, options, given = read(arguments)
        return run(name, options, given, command=" ".join(["python -m fasttrain", *arguments]))
    except FasttrainError as error:
        return _complain(str(error), error.code)
    except BrokenPipeError:
        return 0
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        asked = given.get("batch_size", Recipe().batch_size)
        return _complain(
            f"--batch-size ({asked}): out of memory. Try a smaller one.", OutOfMemory.code
        )


def run(name: str, options: argparse.Namespace, given: dict[str, Scalar], *, command: str) -> int:
    """Do what was read; the heavy imports happen here."""
    from rich.console import Console

    from . import commands
    from .display import Display

    display = Display(Console())
    if name == "data":
        return _data(make(given), display)
    if name == "explain":
        commands.look_at(
            options.run,
            sample=options.sample,
            image=options.image,
            device=options.device,
            display=display,
        )
        return 0
    if name == "report":
        commands.rebuild(options.run, display=display)
        return 0
    if name == "compare":
        commands.compare_runs(options.runs, page=options.out, display=display)
        return 0
    if name == "doctor":
        from . import doctor

        doctor.examine(make(given), display=display)
        return 0
    if name == "find-lr":
        commands.search_lr(make(given), display=display)
        return 0
    if options.runs > 1:
        from .series import train_runs

        train_runs(
            make(given),
            options.runs,
            out=options.out,
            overwrite=options.overwrite,
            go_on=options.resume is not None,
            display=display,
            command=command,
        )
        return 0
    continued = None
    if options.resume is not None:
        continued = commands.run_to_continue(
            None if options.resume is True else options.resume, options.out
        )
        if continued is None:
            display.say("nothing to resume: starting a new run")
        else:
            given = {**_saved_recipe(continued), **given}
    commands.train(
        make(given),
        out=options.out,
        overwrite=options.overwrite,
        continued=continued,
        override=options.override,
        profile=options.profile,
        display=display,
        command=command,
        began=BEGAN,
    )
    return 0


def _saved_recipe(continued: Path) -> dict[str, Scalar]:
    import json

    folder = continued if continued.is_dir() else continued.parent.parent
    try:
        saved = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        Recipe(**saved)
    except FileNotFoundError:
        what = (
            "not a run directory" if continued.is_dir() else "not a checkpoint in a run directory"
        )
        what = what if continued.exists() else "not found"
        raise CheckpointError(f"--resume ({continued}): {what}. Name one that is.") from None
    except (ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            f"--resume ({continued}): its recipe.json is damaged ({error}). Start a new run."
        ) from None
    return saved


def _data(recipe: Recipe, display: Any) -> int:
    from .data import cifar10

    folder = Path(recipe.data_dir) if recipe.data_dir else None
    for key, value in cifar10.describe(folder, say=display.say, bar=display.bar).items():
        display.say(f"{key:14} {value}")
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """torch says it with a class on a GPU and with words on a CPU."""
    said = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in said or "could not create a memory object" in said


def _complain(message: str, code: int) -> int:
    print(f"fasttrain: error: {message}", file=sys.stderr)
    return code
