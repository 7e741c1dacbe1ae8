"""The commands: each calls the function of a lower room that does it.

Rooms that need torch are imported inside the commands, after everything that can be refused
without it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from ..errors import UsageError
from ..parallel import launch
from ..recipe.recipe import Scalar, make
from .call import Call
from .output import print_all
from .train import train


def run(name: str, options: argparse.Namespace, given: dict[str, Scalar], *, command: str) -> int:
    """Run the command `name`; return its exit status."""
    call = Call(options, given, command, launch.place())
    alone = "--runs" if name == "train" and options.runs else name
    if call.place.world > 1 and alone not in ("train", "find-lr"):
        raise UsageError(f"{alone}: needs one process. Start it without torchrun.")
    return COMMANDS[name](call) or 0


def find_lr(call: Call) -> None:
    """Run the range test alone, on the Step and Loader that the recipe would train with."""
    from ..engine.build import splits
    from ..parallel.distributed import joined
    from ..run.find_lr import range_test
    from ..run.tuned import tuned

    recipe, display = make(call.given), call.display()
    with joined(call.place, device=recipe.device) as group:
        with group.first_on_node(), display.counted() as counted:
            data = splits(recipe, log=display.log, bar=display.bar, counted=counted)
        range_test(recipe, tuned(recipe, data, group, display), display, group)


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
        display=call.display(),
    )


def predict(call: Call) -> int:
    """Classify images with a trained run; return the exit status."""
    from .predict import predict

    return predict(call.options, display=call.display(sys.stderr))


def export(call: Call) -> None:
    """Write a run's network as files for other programs, each verified by its own runtime."""
    from ..export.export import export
    from ..parallel.signals import Signals

    wanted, log = call.options, call.display().log
    with Signals():  # so that a signal unwinds it, and no half-written file stays
        export(wanted.run, formats=wanted.format, out=wanted.out, input=wanted.input, log=log)


def serve(call: Call) -> None:
    """Serve a page on this machine that classifies images, until it is stopped."""
    from ..serve.server import serve

    wanted = call.options
    serve(wanted.run, device=wanted.device, port=wanted.port, log=call.display().log)


def report(call: Call) -> None:
    """Draw a run's figures and its page anew."""
    from ..run.finish import draw_report

    draw_report(call.options.run, display=call.display())


def recipe(call: Call) -> int:
    """Print the recipe that would run, as a file for --config."""
    from .recipe import as_toml

    return print_all(as_toml(make(call.given)))


def runs(call: Call) -> int:
    """Print the state and progress of every run in a folder."""
    from .runs import runs

    return print_all(runs(call.options.folder, call.options.format))


def compare(call: Call) -> None:
    """Print how several runs differ and draw them over each other on one page."""
    from .compare import compare

    compare(call.options.runs, call.options.out, sort=call.options.sort, log=call.display().log)


def data(call: Call) -> None:
    """Fetch and verify a published data set, or print all that is wrong with own images."""
    from .data import examine

    examine(make(call.given), display=call.display())


def doctor(call: Call) -> None:
    """Print what this machine has and what limits training on it."""
    from ..doctor import doctor

    task = doctor.find_batch_size if call.options.find_batch_size else doctor.examine
    task(make(call.given), display=call.display())


COMMANDS: dict[str, Callable[[Call], int | None]] = {
    "train": train,
    "find-lr": find_lr,
    "recipe": recipe,
    "explain": explain,
    "predict": predict,
    "export": export,
    "serve": serve,
    "report": report,
    "runs": runs,
    "compare": compare,
    "data": data,
    "doctor": doctor,
}
