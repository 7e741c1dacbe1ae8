"""`--config FILE`: fields of a recipe from a TOML file, or from JSON such as a run's recipe.json.

A mistake in the file is the same error as in a flag, with the file named.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from ..errors import UsageError, nearest, shown
from ..recipe.fields import Scalar, check, earlier, plain
from ..recipe.recipe import FIELDS, SOURCE
from . import values

LARGEST = 1 << 20  # bytes; a recipe has a few thousand


def read(path: Path) -> dict[str, Scalar]:
    """Return the fields that a file gives: JSON if its name ends in .json, otherwise TOML.

    A file named recipe.json is a run's. Fields that its release did not know get the value that
    they stood for there. Raises UsageError, with the file named, for a file that cannot be read, an
    unknown key or a value that its field does not allow.
    """
    found = _parsed(_text(path), path)
    if path.name == "recipe.json" and {"recipe", "epochs"} <= found.keys():
        before = {name: earlier(field) for name, field in FIELDS.items()}
        found = {**before, **{name: value for name, value in found.items() if name != SOURCE}}
    return {name: _value(name, value, path) for name, value in found.items()}


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise _refused(path, "is a folder", "Name a file: that of a run is its recipe.json.")
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block for ever
            raise _refused(path, "is not a file", "Name a file.")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise _refused(path, f"has over {LARGEST:,} bytes", "Name a recipe.")
        return data.decode("utf-8-sig")  # some editors of Windows write a mark at the beginning
    except OSError as error:
        why = f"cannot be read: {error.strerror or error}"
        raise _refused(path, why, "Check the path.") from None
    except UnicodeDecodeError:
        raise _refused(path, "is not UTF-8 text", "Save it as UTF-8.") from None


def _parsed(text: str, path: Path) -> dict[str, Any]:
    form = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        found = json.loads(text) if form == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split()) if isinstance(error, ValueError) else "nested too deeply"
        raise _refused(path, f"is not {form}: {shown(why, 160)}", "Correct it.") from None
    if not isinstance(found, dict):
        raise _refused(path, "is not a JSON object", "Put the fields in braces.")
    return found


def _value(name: str, value: Any, path: Path) -> Scalar:
    """Return the value of a field, as its flag would give it; "none" where TOML has no null."""
    if name not in FIELDS:
        raise _refused(path, f"{shown(name)} is no field of a recipe", nearest(name, FIELDS))
    field = FIELDS[name]
    if value == "none" and field.default is None and "low" in field.metadata:
        return None
    value = plain(field, value)
    try:
        check(field, value)
        if isinstance(value, str):
            return value if "low" in field.metadata else values.parse(name, value)
    except UsageError as error:
        raise UsageError(f"--config ({shown(path, 120)}): {error}") from None
    except ValueError:  # an int of thousands of digits has no decimal form
        raise _refused(path, f"{name} is too large a number", "See --help.") from None
    is_float = isinstance(field.metadata.get("low"), float) and isinstance(value, int)
    return float(value) if is_float else value


def _refused(path: Path, why: str, what: str) -> UsageError:
    return UsageError(f"--config ({shown(path, 120)}): {why}. {what}")
