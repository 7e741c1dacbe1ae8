"""Checks of the arguments that are not fields of Recipe: paths, counts and names.

A bad one is refused in one line, before torch is imported or a file is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError, shown
from ..recipe.fields import not_one_of

LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes, the limits of usual file systems
SAMPLES = ("confident", "random")


def path(given: str | os.PathLike[str]) -> Path:
    """Return `given`, text or a path, as a Path; UsageError if no file system could hold it."""
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        raise UsageError(f"path ({shown(repr(given))}): must be a str or a path. Give one.")
    why = ""
    if not text or not _is_printable(text):
        why = "must be a non-empty line of text"
    elif any(len(_bytes(name)) > LONGEST_NAME for name in Path(text).parts):
        why = f"a name in it is longer than {LONGEST_NAME} bytes"
    elif len(_bytes(text)) > LONGEST_PATH:
        why = f"is longer than {LONGEST_PATH} bytes"
    if why:
        raise UsageError(f"path ({shown(repr(text))}): {why}. See --help.")
    return Path(text)


def some_path(given: str | os.PathLike[str] | None) -> Path | None:
    """Return the path, or None if none is given."""
    return None if given is None else path(given)


def runs(text: str) -> int:
    """Parse a number of runs: 1 to 9999."""
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and int(text)):
        raise _refused("--runs", text, "from 1 to 9999")
    return int(text)


def index(text: str) -> int:
    """Parse the index of an image: 0 or more."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _refused("--image", text, "from 0")
    return int(text)


def sample(text: str) -> str:
    """Check which mistakes `explain` is to show."""
    if text not in SAMPLES:
        raise not_one_of("--sample", text, SAMPLES)
    return text


def _is_printable(text: str) -> bool:
    """Return whether text is printable; undecoded bytes may be in it as surrogates."""
    try:
        return _bytes(text).decode("utf-8", "replace").isprintable()
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refused(flag: str, text: str, bounds: str) -> UsageError:
    return UsageError(f"{flag} ({shown(repr(text))}): must be a whole number {bounds}. See --help.")
