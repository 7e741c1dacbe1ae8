"""The command `recipe`: prints the recipe that would run as TOML, which `--config` reads.

Each field has its help, range and default above it, so the file can be edited without a manual.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Any

from .. import __version__
from ..recipe.fields import Scalar, bounds
from ..recipe.recipe import FIELDS, Recipe
from . import recipe_flags

WIDTH = 100
HEAD = f"""# A recipe of fasttrain {__version__}. `python -m fasttrain --config FILE` trains it.
# A flag wins over this file, and this file over what the recipe of that name sets.
"""


def as_toml(recipe: Recipe) -> str:
    """Return every field of `recipe` with a comment. It is ASCII, so that no encoding spoils it."""
    text = HEAD
    for group, title in recipe_flags.TITLES.items():
        text += f"\n\n# {title}\n# {'-' * len(title)}\n"
        for field in FIELDS.values():
            if field.metadata["group"] == group:
                text += f"\n{_comment(field)}\n{_line(field, getattr(recipe, field.name))}\n"
    return text


def _comment(field: dataclasses.Field[Any]) -> str:
    facts = field.metadata
    if "low" in facts:
        values = bounds(field).removeprefix("must be ")
    elif isinstance(field.default, bool):
        values = "true or false"
    else:
        values = "one of " + ", ".join(facts["choices"]) if "choices" in facts else ""
    default = "none" if field.default is None else str(field.default)
    default = default.lower() if isinstance(field.default, bool) else default
    said = f"{facts['help']} ({values}{'; ' * bool(values)}default: {default})"
    return textwrap.fill(said, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _line(field: dataclasses.Field[Any], value: Scalar) -> str:
    """Return a field as a line; as a comment for a text that there is none of, which TOML lacks."""
    if value is None and "low" not in field.metadata:
        return f"# {field.name} = {_quoted(field.metadata['metavar'])}"
    if isinstance(value, bool):
        return f"{field.name} = {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"{field.name} = {value!r}"
    return f"{field.name} = {_quoted('none' if value is None else str(value))}"


def _quoted(text: str) -> str:
    """Return a basic string of TOML: JSON's, but a letter beyond 16 bits has an escape of 8."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(
        letter
        if letter.isascii()
        else f"\\u{ord(letter):04x}"
        if ord(letter) < 1 << 16
        else f"\\U{ord(letter):08x}"
        for letter in plain
    )
