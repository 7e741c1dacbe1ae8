"""What may be given where it is no field of a Recipe: paths, also from Python, and counts.

Whatever is refused here is refused in a line, before anything is imported or opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError, shown
from ..recipe.fields import not_one_of

LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes, as file systems have it
SAMPLES = ("confident", "random")


def path(given: str | os.PathLike[str]) -> Path:
    """A path whose names a file system can have."""
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
    """The same, or None."""
    return None if given is None else path(given)


def runs(text: str) -> int:
    """How many runs: 1 to 9999."""
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and int(text)):
        raise _refused("--runs", text, "from 1 to 9999")
    return int(text)


def index(text: str) -> int:
    """Of an image: 0 or more."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _refused("--image", text, "from 0")
    return int(text)


def sample(text: str) -> str:
    """Which mistakes `explain` shows."""
    if text not in SAMPLES:
        raise not_one_of("--sample", text, SAMPLES)
    return text


def _is_printable(text: str) -> bool:
    """Also of letters that this process's locale cannot decode: then they are surrogates."""
    try:
        return _bytes(text).decode("utf-8", "replace").isprintable()
    except UnicodeEncodeError:  # half a letter, which no file system has
        return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refused(flag: str, text: str, bounds: str) -> UsageError:
    return UsageError(f"{flag} ({shown(repr(text))}): must be a whole number {bounds}. See --help.")
