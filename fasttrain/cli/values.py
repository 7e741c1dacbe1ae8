"""Checks of the arguments that are not fields of Recipe: counts and names.

A bad one is refused in one line, before torch is imported or a file is opened.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from ..errors import UsageError, nearest, shown
from ..recipe import fields
from ..recipe.datasets import from_here
from ..recipe.fields import Scalar, not_one_of
from ..recipe.recipe import FIELDS
from ..storage.paths import path

SAMPLES = ("confident", "random")
ORDERS = ("name", "accuracy", "seconds")
FORMATS = ("csv", "json", "jsonl", "table")


def parse(name: str, text: str) -> Scalar:
    """Convert the text of flag `name` to the value of its field; UsageError for a bad number."""
    if name == "cache_dir" and text:
        return os.path.abspath(text)  # a run may be resumed from another folder
    return from_here(text) if name == "dataset" else fields.parse(FIELDS[name], text)


def port(text: str) -> int:
    """Parse a port: 0, for any that is free, to 65535."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536):
        raise _refused("--port", text, "from 0 to 65535")
    return int(text)


def runs(text: str) -> int:
    """Parse a number of runs: 1 to 9999."""
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and int(text)):
        raise _refused("--runs", text, "from 1 to 9999")
    return int(text)


def image(text: str) -> int | Path:
    """Parse the index of an image, 0 or more, or the path of an image file."""
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    if text.lstrip("+-").isdecimal():
        raise _refused("--image", text, "from 0, or the path of an image")
    return path(text)


def sample(text: str) -> str:
    """Check which mistakes `explain` is to show."""
    if text not in SAMPLES:
        raise not_one_of("--sample", text, SAMPLES)
    return text


def count(text: str, *, flag: str) -> int:
    """Parse a number of classes or images: 1 to 99999."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text)):
        raise _refused(flag, text, "from 1 to 99999")
    return int(text)


def share(text: str) -> float:
    """Parse a probability: 0 to 1."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (text.isascii() and 0 <= found <= 1):
        raise UsageError(f"--threshold ({shown(repr(text))}): must be from 0 to 1. See --help.")
    return found


def form(text: str) -> str:
    """Check the format of rows."""
    if text not in FORMATS:
        raise not_one_of("--format", text, FORMATS)
    return text


def order(text: str) -> str:
    """Check what `compare` sorts by: name, accuracy, seconds, or a field of a recipe."""
    name = text.replace("-", "_")
    if name not in (*ORDERS, *FIELDS):
        why = f"must be {', '.join(ORDERS)} or a field of a recipe"
        raise UsageError(f"--sort ({shown(text)}): {why}. {nearest(name, (*ORDERS, *FIELDS))}")
    return name


def _refused(flag: str, text: str, bounds: str) -> UsageError:
    return UsageError(f"{flag} ({shown(repr(text))}): must be a whole number {bounds}. See --help.")
