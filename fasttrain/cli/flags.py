"""The command-line flags: one for each field of Recipe, and those for the run directory.

Flag, default, range and help come from the field itself, so they cannot differ from Recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..errors import UsageError, nearest, shown
from ..recipe.fields import not_one_of, words
from ..recipe.recipe import FIELDS, Scalar, flag, make
from ..storage.paths import path
from . import values

COMMANDS = {
    "train": "train a network (the default command)",
    "find-lr": "run the learning-rate range test and print its suggestion",
    "explain": "analyse a trained run: mistakes, Grad-CAM, accuracy by class",
    "report": "redraw a run's figures and report.html; needs no GPU",
    "compare": "compare several runs in a table and a page of curves",
    "data": "download and verify a data set, or check your own images",
    "doctor": "check this machine and suggest what would speed up training most",
}
TITLES = {
    "recipe": "recipe (what is trained)",
    "augmentation": "augmentation (of training images)",
    "data": "data",
    "machine": "machine (hardware and speed)",
    "stopping": "stopping, final test and report",
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
    options, unknown = parser(name).parse_known_args(arguments)
    if unknown:
        _raise_unknown(unknown[0], name)
    takes_recipe = name in ("train", "find-lr", "data", "doctor")
    given = {
        field: values.parse(field, text) if isinstance(text, str) else text
        for field in FIELDS
        if takes_recipe and (text := getattr(options, field, None)) is not None
    }
    make(given)
    if name == "train" and options.override and options.resume is None:
        raise UsageError("--override: goes with --resume. Add it, or leave --override out.")
    return name, options, given


def parser(name: str) -> Parser:
    """Return the parser of one command, with a flag for each field of Recipe that it uses."""
    listed = "".join(f"\n  {word:9} {what}" for word, what in COMMANDS.items())
    listed = f"\n\ncommands:{listed}\n  COMMAND --help lists the flags of one command"
    takes = {"train": "[COMMAND]", "compare": "compare RUN RUN ..."}
    takes |= {each: f"{each} RUN" for each in ("explain", "report")}
    made = Parser(
        prog="fasttrain" if name == "train" else f"fasttrain {name}",
        usage=f"fasttrain {takes.get(name, name)} [flags]",
        description=COMMANDS[name] + (listed if name == "train" else ""),
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
            help="only find the largest training batch that fits into memory",
        )
    groups = {group: made.add_argument_group(title) for group, title in TITLES.items()}
    for field in FIELDS.values():
        if name == "doctor" and not _affects_speed(field):
            continue
        _add_field(groups[field.metadata["group"]], field)
    return made


def _add_run_flags(made: Parser) -> None:
    runs = made.add_argument_group("run (where it is saved)")
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


def _add_run_arguments(made: Parser, name: str) -> None:
    if name == "compare":
        made.add_argument("runs", type=path, nargs="+", metavar="RUN", help="run directories")
        made.add_argument(
            "--out",
            type=path,
            default=Path("compare.html"),
            help="HTML page to write (default: compare.html)",
        )
        return
    made.add_argument("run", type=path, metavar="RUN", help="run directory")
    if name == "explain":
        made.add_argument(
            "--image",
            type=values.index,
            metavar="INDEX",
            help="show Grad-CAM of one test image in all four stages",
        )
        made.add_argument(
            "--sample",
            type=values.sample,
            metavar="{confident,random}",
            default="confident",
            help="mistakes to show: the most confident or a random sample (default: confident)",
        )
        made.add_argument("--device", default="auto", help="device: auto, cpu, cuda or cuda:N")
        for field in ("cache_dir", "cam_layer"):
            _add_field(made, FIELDS[field])


def _add_field(group: Any, field: Any) -> None:
    facts = field.metadata
    if isinstance(field.default, bool):
        either = argparse.BooleanOptionalAction  # also --no-..., for what a named recipe turns on
        group.add_argument(flag(field.name), action=either, default=None, help=facts["help"])
        return
    default = "none" if field.default is None else field.default
    limits = f", {facts['low']:g} to {facts['high']:.10g}" if "low" in facts else ""
    group.add_argument(
        flag(field.name),
        metavar=_metavar(field),
        help=f"{facts['help']} (default: {default}{limits})".replace("%", "%%"),
    )


def _affects_speed(field: Any) -> bool:
    """Return whether a field affects how fast training is."""
    return field.metadata["group"] == "machine" or field.name in ("epochs", "batch_size", "loader")


def _metavar(field: Any) -> str:
    facts = field.metadata
    if "choices" in facts:
        return "{" + ",".join(facts["choices"]) + "}"
    if "low" not in facts:
        return facts["metavar"]
    kind = "INT" if isinstance(facts["low"], int) else "FLOAT"
    return "{" + ",".join([kind, *words(field)]) + "}" if words(field) else kind


def _raise_unknown(word: str, name: str) -> NoReturn:
    known = [option for action in parser(name)._actions for option in action.option_strings]
    hint = nearest(word.split("=")[0], known)
    raise UsageError(f"argument ({shown(repr(word))}): not known to fasttrain {name}. {hint}")
