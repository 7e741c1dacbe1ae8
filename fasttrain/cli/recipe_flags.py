"""The flags of a recipe: one for each field of Recipe.

Flag, default, range and help come from the field itself, so they cannot differ from Recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..recipe.fields import words
from ..recipe.recipe import FIELDS, Scalar, flag
from ..storage.paths import path
from . import values

TITLES = {
    "recipe": "recipe (what is trained)",
    "augmentation": "augmentation (of training images)",
    "data": "data",
    "machine": "machine (hardware and speed)",
    "stopping": "stopping, final test and report",
}
SIZES = ("epochs", "batch_size", "accumulate", "loader")  # what sets the speed beside the hardware


def add(parser: argparse.ArgumentParser, *, speed_only: bool = False) -> None:
    """Add a flag for each field of Recipe; `speed_only` leaves out those that cost no time."""
    groups = {group: parser.add_argument_group(title) for group, title in TITLES.items()}
    groups["recipe"].add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="fields of a recipe in TOML, or in JSON like a run's recipe.json; flags win over them",
    )
    for field in FIELDS.values():
        if not speed_only or _affects_speed(field):
            add_field(groups[field.metadata["group"]], field.name)


def given(options: argparse.Namespace) -> dict[str, Scalar]:
    """Return the fields of Recipe that `options` and their --config file give.

    Raises UsageError for a bad number or file.
    """
    kept = _read(options.config) if options.config else {}
    return kept | {
        field: values.parse(field, text) if isinstance(text, str) else text
        for field in FIELDS
        if (text := getattr(options, field, None)) is not None
    }


def _read(file: Path) -> dict[str, Scalar]:
    from . import config  # the parser of TOML takes a tenth of the time that --help takes

    return config.read(file)


def add_field(group: Any, name: str) -> None:
    """Add the flag of the field `name` to a parser or a group of one."""
    field = FIELDS[name]
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
    return field.metadata["group"] == "machine" or field.name in SIZES


def _metavar(field: Any) -> str:
    facts = field.metadata
    if "choices" in facts:
        return "{" + ",".join(facts["choices"]) + "}"
    if "low" not in facts:
        return facts["metavar"]
    kind = "INT" if isinstance(facts["low"], int) else "FLOAT"
    others = words(field)
    return "{" + ",".join([kind, *others]) + "}" if others else kind
