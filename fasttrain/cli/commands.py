"""The commands: each calls the function of a lower room that does it.

Rooms that need torch are imported inside the commands, after everything that can be refused
without it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TextIO, cast

from ..console.stdout import BrokenPipeSafe
from ..errors import UsageError
from ..parallel import launch
from ..recipe.recipe import Scalar, make
from .asked import Asked, asked

if TYPE_CHECKING:
    from ..console.console import Display

BEGAN = perf_counter()


class Call(NamedTuple):
    """A command as it was typed: its options, the given fields of a Recipe, the line itself."""

    options: argparse.Namespace
    given: dict[str, Scalar]
    line: str
    place: launch.Place


def run(name: str, options: argparse.Namespace, given: dict[str, Scalar], *, command: str) -> int:
    """Run the command `name`; return its exit status."""
    call = Call(options, given, command, launch.place())
    alone = "--runs" if name == "train" and options.runs else name
    if call.place.world > 1 and alone not in ("train", "find-lr"):
        raise UsageError(f"{alone}: needs one process. Start it without torchrun.")
    return COMMANDS[name](call) or 0


def train(call: Call) -> None:
    """Train a run or a series of runs, new or resumed."""
    alone = call.place.world == 1
    wanted = asked(call.options, call.given, call.place) if alone else None
    from ..parallel.distributed import joined
    from ..run.train import train

    display, options = _display(call), call.options
    if wanted and wanted.runs:
        _train_runs(call, wanted, display)
        return
    with joined(call.place, device=str(call.given.get("device", "auto"))) as group:
        if wanted is None:  # rank 0 looks for all: the others might find what it has made
            mine = tuple(asked(options, call.given, call.place)) if group.first else None
            wanted = Asked(*group.broadcast(mine))
        resumed = Path(wanted.resumed) if wanted.resumed else None
        if options.resume is not None and resumed is None:
            display.log("nothing to resume: starting a new run")
        train(
            make(wanted.given),
            out=options.out,
            overwrite=options.overwrite,
            continued=resumed,
            override=options.override and resumed is not None,
            profile=options.profile,
            display=display,
            group=group,
            command=call.line,
            began=BEGAN,
        )


def _train_runs(call: Call, wanted: Asked, display: Display) -> None:
    from .repeat import train_runs

    options, resumed = call.options, Path(wanted.resumed) if wanted.resumed else None
    if options.resume is not None and resumed is None:
        display.log("nothing to resume: starting a new series")
    train_runs(
        make(wanted.given),
        wanted.runs,
        out=options.out,
        overwrite=options.overwrite,
        continued=resumed,
        override=options.override and resumed is not None,
        profile=options.profile,
        display=display,
        command=call.line,
    )


def find_lr(call: Call) -> None:
    """Run the range test alone, on the Step and Loader that the recipe would train with."""
    from ..engine.build import build, splits
    from ..parallel.distributed import joined
    from ..run.find_lr import range_test

    recipe, display = make(call.given), _display(call)
    with joined(call.place, device=recipe.device) as group:
        with group.first_on_node(), display.counted() as counted:
            data = splits(recipe, log=display.log, bar=display.bar, counted=counted)
        range_test(recipe, build(recipe, data, group), display, group)


def explain(call: Call) -> None:
    """Explain a trained run, or one image of it."""
    from ..run.finish import explain_run

    wanted = call.options
    explain_run(
        wanted.run,
        sample=wanted.sample,
        image=wanted.image,
        device=wanted.device,
        cache_dir=wanted.cache_dir,
        cam_layer=wanted.cam_layer,
        display=_display(call),
    )


def predict(call: Call) -> int:
    """Classify images with a trained run; return the exit status."""
    from .predict import predict

    return predict(call.options, display=_display(call, sys.stderr))


def report(call: Call) -> None:
    """Draw a run's figures and its page anew."""
    from ..run.finish import draw_report

    draw_report(call.options.run, display=_display(call))


def compare(call: Call) -> None:
    """Print how several runs differ and draw them over each other on one page."""
    from ..report import compare

    display, runs, page = _display(call), call.options.runs, call.options.out
    compare.check_out(page)
    display.log(compare.compare(runs))
    display.log(f"page: {compare.write_page(runs, page)}")


def data(call: Call) -> None:
    """Fetch and verify a published data set, or print all that is wrong with own images."""
    from .data import examine

    examine(make(call.given), display=_display(call))


def doctor(call: Call) -> None:
    """Print what this machine has and what limits training on it."""
    from ..doctor import doctor

    task = doctor.find_batch_size if call.options.find_batch_size else doctor.examine
    task(make(call.given), display=_display(call))


COMMANDS: dict[str, Callable[[Call], int | None]] = {
    "train": train,
    "find-lr": find_lr,
    "explain": explain,
    "predict": predict,
    "report": report,
    "compare": compare,
    "data": data,
    "doctor": doctor,
}


def _display(call: Call, stream: TextIO | None = None) -> Display:
    """The console of rank 0, on standard output or `stream`; the other ranks print nothing."""
    from rich.console import Console

    from ..console.console import Display

    if call.place.rank != 0:
        return Display(None)
    return Display(Console(file=cast(TextIO, BrokenPipeSafe(stream or sys.stdout))))
