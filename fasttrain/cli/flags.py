"""The command line of each command: its name, its usage and its flags.

A command adds its flags by one function, so that a new command is one line in each table here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from .. import __version__
from ..errors import UsageError, nearest, shown
from ..recipe.fields import not_one_of
from ..recipe.recipe import Scalar, make
from . import export_flags, recipe_flags, run_arguments, train_flags
from .help import Help

COMMANDS = {
    "train": "train a network (the default command)",
    "find-lr": "run the learning-rate range test and print its suggestion",
    "recipe": "print the recipe that would run as TOML, for --config",
    "explain": "analyse a trained run: mistakes, Grad-CAM, accuracy by class",
    "predict": "classify images with a trained run: files, folders, tables, a list",
    "export": "write a trained network for other programs: ONNX, pt2, safetensors",
    "serve": "open a local page that classifies the images dropped on it",
    "report": "redraw a run's figures and report.html; needs no GPU",
    "runs": "list the runs of a folder: state, epoch, accuracy, time left",
    "compare": "compare several runs in a table and a page of curves",
    "data": "download and verify a data set, or check your own images",
    "doctor": "check this machine and suggest what would speed up training most",
}
# What a command of finished runs takes, and the function that adds its arguments. The commands
# that are not here take the flags of a recipe.
OF_RUNS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "explain": ("RUN", run_arguments.explain),
    "predict": ("RUN PATH ...", run_arguments.predict),
    "export": ("RUN", export_flags.add),
    "serve": ("RUN", run_arguments.serve),
    "report": ("RUN", run_arguments.report),
    "runs": ("[FOLDER]", run_arguments.runs),
    "compare": ("RUN|FOLDER ...", run_arguments.compare),
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{shown(message, 200)}. See --help.")


def read(arguments: list[str]) -> tuple[str, argparse.Namespace, dict[str, Scalar]]:
    """Return the command, its options and the given fields of Recipe; UsageError for a mistake."""
    name = "train"
    if arguments and arguments[0] in COMMANDS:
        name, arguments = arguments[0], arguments[1:]
    elif arguments and not arguments[0].startswith("-"):
        raise not_one_of("command", arguments[0], COMMANDS)
    made = parser(name)  # of paths, some may follow a flag
    parse = made.parse_known_intermixed_args if name in OF_RUNS else made.parse_known_args
    options, unknown = parse(arguments)
    if unknown:
        _raise_unknown(unknown[0], name)
    given = {} if name in OF_RUNS else recipe_flags.given(options)
    make(given)
    if name == "train":
        train_flags.check(options)
    return name, options, given


def parser(name: str) -> Parser:
    """Return the parser of one command, with all its flags."""
    listed = "".join(f"\n  {word:9} {what}" for word, what in COMMANDS.items())
    listed = f"\n\ncommands:{listed}\n  COMMAND --help lists the flags of one command"
    takes, add = OF_RUNS.get(name, ("", None))
    words = "[COMMAND]" if name == "train" else f"{name} {takes}".rstrip()
    made = Parser(
        prog="fasttrain" if name == "train" else f"fasttrain {name}",
        usage=f"fasttrain {words} [flags]",
        description=COMMANDS[name] + (listed if name == "train" else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    made.add_argument("-h", "--help", action=Help)
    made.add_argument("--version", action="version", version=f"fasttrain {__version__}")
    if add:
        add(made)
        return made
    if name == "train":
        train_flags.add(made)
    if name == "doctor":
        made.add_argument(
            "--find-batch-size",
            action="store_true",
            help="only find the largest training batch that fits into memory",
        )
    recipe_flags.add(made, speed_only=name == "doctor")
    return made


def _raise_unknown(word: str, name: str) -> NoReturn:
    known = [option for action in parser(name)._actions for option in action.option_strings]
    hint = nearest(word.split("=")[0], known)
    raise UsageError(f"argument ({shown(repr(word))}): not known to fasttrain {name}. {hint}")
