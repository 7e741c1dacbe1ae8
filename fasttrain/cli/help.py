"""`--help`: one screen with what most people need first; `--help all`: every flag.

A hundred lines of flags hide the six that a first run needs.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from typing import Any

from ..recipe.recipe import FIELDS, RECIPES

ALL = "all"
# The flags on a command's first screen, by their names in the options. A command that is not here
# has few flags and shows them all.
FIRST = {
    "train": ("dataset", "recipe", "epochs", "config", "out", "resume"),
    "find-lr": ("dataset", "recipe", "model", "batch_size", "config"),
    "recipe": ("recipe", "config"),
    "data": ("dataset", "side", "fit", "holdout", "skip_bad_files", "data_dir", "cache_dir"),
}
# Shorter metavars and texts, so that the first screen of train has a line for each flag.
SHORT = {
    "dataset": ("NAME|PATH", "cifar10, cifar100, mnist, or the path of your images"),
    "recipe": ("NAME", ", ".join(RECIPES)),
    "epochs": ("INT", f"{FIELDS['epochs'].metadata['help']} ({FIELDS['epochs'].default})"),
    "config": ("FILE", "a recipe in TOML or JSON, such as a run's recipe.json"),
    "resume": ("[RUN]", "continue a run; without RUN the newest unfinished one"),
}


class Help(argparse.Action):
    """The action of `-h` and `--help`."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(
            option_strings,
            argparse.SUPPRESS,
            nargs="?",
            default=argparse.SUPPRESS,
            metavar=ALL,
            help="show the most needed flags; --help all: every flag",
        )

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        name = parser.prog.partition(" ")[2] or "train"
        whole = values == ALL or name not in FIRST
        parser._print_message(parser.format_help() if whole else _first(parser, name), sys.stdout)
        parser.exit()


def _first(parser: argparse.ArgumentParser, name: str) -> str:
    """Return the first screen of a command: what it is, and its most needed flags."""
    what, _, commands = (parser.description or "").partition("\n\n")
    shown = argparse.ArgumentParser(
        usage=parser.usage,
        description=commands or what,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    flags = shown.add_argument_group("flags to start with (--help all: every flag)")
    actions = {action.dest: action for action in parser._actions}
    for dest in FIRST[name]:
        action = copy.copy(actions[dest])
        if dest in SHORT:
            action.metavar, action.help = SHORT[dest]
            action.nargs = None
        flags._add_action(action)
    return shown.format_help()
