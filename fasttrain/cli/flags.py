"""The flags: one for every field of a Recipe, and those that say where a run is kept."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..errors import UsageError, shown
from ..recipe.fields import words
from ..recipe.recipe import FIELDS, Scalar, flag, make, parse
from . import values

COMMANDS = {
    "train": "train a network (the default: the word may be left out)",
    "find-lr": "run the learning-rate range test alone and print what it suggests",
    "explain": "look at a trained run: its mistakes, Grad-CAM, accuracy by class",
    "report": "draw a run's figures and its report.html anew, without a network or a GPU",
    "compare": "lay several runs over each other",
    "data": "fetch and verify a data set, or say what is wrong with own images",
    "doctor": "say what this machine has, which paths are taken, and what would gain most",
}
TITLES = {
    "recipe": "recipe: what is trained",
    "augmentation": "augmentation: what happens to a training image",
    "data": "data",
    "machine": "machine: what it runs on",
    "stopping": "stopping early",
}


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UsageErrors and name the nearest flag."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{shown(message, 200)}. See --help.")


def read(arguments: list[str]) -> tuple[str, argparse.Namespace, dict[str, Scalar]]:
    """(command, its options, the Recipe fields that were given); exits only for --help,
    --version."""
    name = "train"
    if arguments and arguments[0] in COMMANDS:
        name, arguments = arguments[0], arguments[1:]
    elif arguments and not arguments[0].startswith("-"):
        raise UsageError(
            f"command ({shown(repr(arguments[0]))}): must be one of {', '.join(COMMANDS)}. "
            "See --help."
        )
    options, unknown = parser(name).parse_known_args(arguments)
    if unknown:
        _refuse(unknown[0], name)
    takes_recipe = name in ("train", "find-lr", "data", "doctor")
    given = {
        field: parse(field, text) if isinstance(text, str) else text
        for field in FIELDS
        if takes_recipe and (text := getattr(options, field, None)) is not None
    }
    make(given)
    if name == "train" and options.override and options.resume is None:
        raise UsageError("--override: goes with --resume. Add it, or leave --override out.")
    return name, options, given


def parser(name: str) -> Parser:
    """The parser of one command, with a flag for every Recipe field."""
    listed = "\n".join(f"  {word:9} {what}" for word, what in COMMANDS.items())
    made = Parser(
        prog="fasttrain" if name == "train" else f"fasttrain {name}",
        usage="fasttrain [COMMAND] [flags]" if name == "train" else f"fasttrain {name} [flags]",
        description=f"{COMMANDS[name]}\n\ncommands:\n{listed}\n"
        "  COMMAND --help shows a command's own flags",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"fasttrain {__version__}")
    if name in ("explain", "report", "compare"):
        _add_run_arguments(made, name)
        return made
    if name == "train":
        _add_run_flags(made)
    if name == "doctor":
        made.add_argument(
            "--find-batch-size",
            action="store_true",
            help="find the largest training batch that fits into memory, and nothing else",
        )
    groups = {group: made.add_argument_group(title) for group, title in TITLES.items()}
    for field in FIELDS.values():
        if name == "doctor" and not _is_of_the_machine(field):
            continue
        _add_field(groups[field.metadata["group"]], field)
    return made


def _add_run_flags(made: Parser) -> None:
    runs = made.add_argument_group("run: where it is kept")
    runs.add_argument(
        "--out",
        type=values.path,
        metavar="FOLDER",
        help="run directory (default: runs/RECIPE-DATE-TIME)",
    )
    either = runs.add_mutually_exclusive_group()
    either.add_argument(
        "--resume",
        nargs="?",
        type=values.path,
        const=True,
        metavar="CHECKPOINT",
        help="go on with a run: a checkpoint, a run directory, --out's or the newest one",
    )
    runs.add_argument(
        "--override",
        action="store_true",
        help="resume even under another recipe: what comes out is no longer one run's",
    )
    either.add_argument(
        "--overwrite", action="store_true", help="replace the run that --out already holds"
    )
    runs.add_argument(
        "--runs",
        type=values.runs,
        metavar="INT",
        help="a series of runs with seeds from --seed on: how far they agree (default: one run)",
    )
    runs.add_argument(
        "--profile",
        action="store_true",
        help="record a few steps for TensorBoard and Perfetto, and say where their time goes",
    )


def _add_run_arguments(made: Parser, name: str) -> None:
    if name == "compare":
        made.add_argument(
            "runs", type=values.path, nargs="+", metavar="RUN", help="run directories"
        )
        made.add_argument(
            "--out",
            type=values.path,
            default=Path("compare.html"),
            help="page (default: compare.html)",
        )
        return
    made.add_argument("run", type=values.path, metavar="RUN", help="run directory")
    if name == "explain":
        made.add_argument(
            "--image",
            type=values.index,
            metavar="INDEX",
            help="one test image, through all four stages",
        )
        made.add_argument(
            "--sample",
            choices=("confident", "random"),
            default="confident",
            help="which mistakes are shown (default: confident: the most confident ones first)",
        )
        made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_field(group: Any, field: Any) -> None:
    facts = field.metadata
    if isinstance(field.default, bool):
        either = argparse.BooleanOptionalAction  # --no-...: what a named recipe switches on
        group.add_argument(flag(field.name), action=either, default=None, help=facts["help"])
        return
    default = "none" if field.default is None else field.default
    limits = f", {facts['low']:g} to {facts['high']:.10g}" if "low" in facts else ""
    group.add_argument(
        flag(field.name),
        metavar=_metavar(field),
        help=f"{facts['help']} (default: {default}{limits})".replace("%", "%%"),
    )


def _is_of_the_machine(field: Any) -> bool:
    """Whether a field decides how fast training is."""
    return field.metadata["group"] == "machine" or field.name in ("epochs", "batch_size", "loader")


def _metavar(field: Any) -> str:
    facts = field.metadata
    if "choices" in facts:
        return "{" + ",".join(facts["choices"]) + "}"
    if "low" not in facts:
        return facts["metavar"]
    kind = "INT" if isinstance(facts["low"], int) else "FLOAT"
    others = words(field)
    return "{" + ",".join([kind, *others]) + "}" if others else kind


def _refuse(word: str, name: str) -> NoReturn:
    known = [option for action in parser(name)._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.split("=")[0], known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "See --help."
    raise UsageError(f"argument ({shown(repr(word))}): not known to fasttrain {name}. {hint}")
