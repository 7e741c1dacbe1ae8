"""The kinds of fields that a Recipe has: their allowed values, help texts and error messages.

Standard library only, so that `--help` and errors about flags need no torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection
from typing import Any

from ..errors import UsageError, nearest, shown
from . import pairs

Scalar = bool | int | float | str | None
OWN = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*"  # MODULE:FUNCTION


def number(
    default: Scalar, low: float, high: float, group: str, text: str, *, also: tuple[str, ...] = ()
) -> Any:
    """Return a field for a number in [low, high], whole if `low` is an int, or a word of `also`."""
    facts = {"low": low, "high": high, "group": group, "help": text, "also": also}
    return dataclasses.field(default=default, metadata=facts)


def choice(
    default: str, choices: tuple[str, ...], group: str, text: str, *, earlier: str | None = None
) -> Any:
    """Return a field for one of the words `choices`.

    `earlier` is what releases without the field did, where that is not the default.
    """
    facts = {"choices": choices, "group": group, "help": text}
    facts |= {} if earlier is None else {"earlier": earlier}
    return dataclasses.field(default=default, metadata=facts)


def earlier(field: dataclasses.Field[Any]) -> Any:
    """Return what a release without `field` did."""
    return field.metadata.get("earlier", field.default)


def switch(group: str, text: str, *, default: bool = False) -> Any:
    """Return a field that is `default` unless its flag, or the flag's --no- form, is given."""
    return dataclasses.field(default=default, metadata={"group": group, "help": text})


def line(
    default: Scalar,
    group: str,
    text: str,
    *,
    metavar: str,
    form: str = ".+",
    known: tuple[str, ...] = (),
) -> Any:
    """Return a field for one of the words `known` or a line that matches the expression `form`.

    None is allowed if it is the default.
    """
    facts = {"group": group, "help": text, "metavar": metavar, "form": form, "known": known}
    return dataclasses.field(default=default, metadata=facts)


def pair(default: str, low: float, high: float, group: str, text: str) -> Any:
    """Return a field for two numbers in [low, high], not falling, kept as text: "0.8,1.25".

    Python may also give a tuple or a list of two numbers.
    """
    facts = {"ends": (low, high), "group": group, "help": text, "metavar": "LOW,HIGH"}
    return dataclasses.field(default=default, metadata=facts)


def place(default: str | None, group: str, metavar: str, text: str) -> Any:
    """Return a field for a path, which is kept as text."""
    return line(default, group, text, metavar=metavar)


def flag(name: str) -> str:
    """Return the flag of a field: save_every -> --save-every."""
    return "--" + name.replace("_", "-")


def plain(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return `value` as the plain type that recipe.json stores.

    Scalars of numpy and torch, and subclasses of built-in types, become bool, int, float or str.
    A path becomes text if `field` holds text. Anything else is returned unchanged.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, os.PathLike) and "form" in field.metadata:
        value = os.fspath(value)
    if "ends" in field.metadata:
        return pairs.written(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return value
    kind = next((kind for kind in (int, float) if isinstance(value, kind)), None)
    return kind(value) if kind else value


def check(field: dataclasses.Field[Any], value: object) -> None:
    """Raise UsageError unless `field` allows `value`."""
    facts = field.metadata
    if value is None and field.default is None:
        return
    if "choices" in facts:
        if not isinstance(value, str) or value not in facts["choices"]:
            raise not_one_of(flag(field.name), value, facts["choices"])
    elif "low" in facts:
        if isinstance(value, str) and value in facts["also"]:
            return
        kinds = (int,) if isinstance(facts["low"], int) else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if not is_number or not facts["low"] <= value <= facts["high"]:  # false for NaN
            raise invalid(field.name, value, bounds(field))
    elif "ends" in facts:
        if not pairs.lies_between(value, *facts["ends"]):
            low, high = facts["ends"]
            why = f"must be two numbers from {low:g} to {high:g}, the lower first, as 0.8,1.25"
            raise invalid(field.name, value, why)
    elif isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise invalid(field.name, value, "must be true or false")
    elif not isinstance(value, str) or not value or not value.isprintable():
        raise invalid(field.name, value, "must be a non-empty line of text")
    elif value not in facts["known"] and not re.fullmatch(facts["form"], value, re.ASCII):
        hint = f". {nearest(value, facts['known'])}"
        names = f"be one of {', '.join(facts['known'])}, or " if facts["known"] else ""
        forms = facts["metavar"].removeprefix("NAME|").replace("|", " or ")
        why = f"must {names}look like {forms}"
        raise UsageError(f"{flag(field.name)} ({shown(value)}): {why}{hint}")


def parse(field: dataclasses.Field[Any], text: str) -> Scalar:
    """The value of `field` that a person wrote as `text`; UsageError if it is not a number."""
    facts = field.metadata
    if "low" not in facts:
        return text
    if text in words(field):
        return None if text == "none" else text
    whole = isinstance(facts["low"], int)
    try:
        value: Scalar = int(text) if whole else float(text)
    except ValueError:
        raise invalid(field.name, text, bounds(field)) from None
    return value


def words(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the words that a number field accepts; `none` stands for None if that is allowed."""
    return (*field.metadata["also"], *(["none"] if field.default is None else []))


def bounds(field: dataclasses.Field[Any]) -> str:
    """Describe the allowed values of a number field."""
    facts = field.metadata
    kind = "a whole number" if isinstance(facts["low"], int) else "a finite number"
    others = "".join(f", or {word}" for word in words(field))
    return f"must be {kind} from {facts['low']:g} to {facts['high']:.10g}{others}"


def not_one_of(name: str, value: object, choices: Collection[str]) -> UsageError:
    """Return the error for a value of `name` that is none of `choices`; it names the nearest."""
    why = f"must be one of {', '.join(choices)}. {nearest(value, choices)}"
    return UsageError(f"{name} ({shown(value)}): {why}")


def invalid(name: str, value: object, why: str) -> UsageError:
    """Return the error for a bad value of a field."""
    return UsageError(f"{flag(name)} ({shown(value)}): {why}. See --help.")
