"""What a field of a Recipe may hold: its bounds, its words, its help, and the complaint about it.

Standard library only, like recipe.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from ..errors import UsageError, shown

Scalar = bool | int | float | str | None


def number(
    default: Scalar, low: float, high: float, group: str, text: str, *, also: tuple[str, ...] = ()
) -> Any:
    """A field that holds a number in [low, high]; whole if `low` is an int; or a word of `also`."""
    facts = {"low": low, "high": high, "group": group, "help": text, "also": also}
    return dataclasses.field(default=default, metadata=facts)


def choice(default: str, choices: tuple[str, ...], group: str, text: str) -> Any:
    """A field that holds one of the words `choices`."""
    return dataclasses.field(
        default=default, metadata={"choices": choices, "group": group, "help": text}
    )


def switch(group: str, text: str) -> Any:
    """A field that is off unless its flag stands there."""
    return dataclasses.field(default=False, metadata={"group": group, "help": text})


def line(default: Scalar, group: str, text: str, *, metavar: str, form: str = ".+") -> Any:
    """A field that holds a line of text of a `form` (a regular expression), or None where `default`
    is."""
    facts = {"group": group, "help": text, "metavar": metavar, "form": form}
    return dataclasses.field(default=default, metadata=facts)


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")


def plain(field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as a recipe.json holds it: a scalar of numpy or torch, or a subclass, as the bool,
    int, float or str that it is; a path, where `field` is text, as that; anything else as it is."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, os.PathLike) and "form" in field.metadata:
        value = os.fspath(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return value
    kind = next((kind for kind in (int, float) if isinstance(value, kind)), None)
    return kind(value) if kind else value


def check(field: dataclasses.Field[Any], value: object) -> None:
    """Raise UsageError unless `value` is one that `field` may hold."""
    facts = field.metadata
    if value is None and field.default is None:
        return
    if "choices" in facts:
        if not isinstance(value, str) or value not in facts["choices"]:
            raise invalid(field.name, value, f"must be one of {', '.join(facts['choices'])}")
    elif "low" in facts:
        if isinstance(value, str) and value in facts["also"]:
            return
        kinds = (int,) if isinstance(facts["low"], int) else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if not is_number or not facts["low"] <= value <= facts["high"]:  # so of no nan
            raise invalid(field.name, value, bounds(field))
    elif isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise invalid(field.name, value, "must be true or false")
    elif not isinstance(value, str) or not value or not value.isprintable():
        raise invalid(field.name, value, "must be a non-empty line of text")
    elif not re.fullmatch(facts["form"], value, re.ASCII):
        raise invalid(field.name, value, f"must look like {facts['metavar']}")


def words(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """What may be written for a number besides one: `none` is None, where a field may be that."""
    return (*field.metadata["also"], *(["none"] if field.default is None else []))


def written(field: dataclasses.Field[Any], text: str) -> Scalar:
    """The value that a person wrote as `text`; UsageError for a number that is none."""
    facts = field.metadata
    if "low" not in facts:
        return text
    if text in words(field):
        return None if text == "none" else text
    try:
        return int(text) if isinstance(facts["low"], int) else float(text)
    except ValueError:
        raise invalid(field.name, text, bounds(field)) from None


def bounds(field: dataclasses.Field[Any]) -> str:
    """What a number's bounds are, in words."""
    facts = field.metadata
    kind = "a whole number" if isinstance(facts["low"], int) else "a finite number"
    others = "".join(f", or {word}" for word in words(field))
    return f"must be {kind} from {facts['low']:g} to {facts['high']:.10g}{others}"


def invalid(name: str, value: object, why: str) -> UsageError:
    """The error on a field's value, to be raised."""
    return UsageError(f"{flag(name)} ({shown(value)}): {why}. See --help.")
