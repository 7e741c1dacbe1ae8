"""Paths as a person gives them, refused in one line if no file system can have them."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError, shown

LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes, as file systems have it


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


def _is_printable(text: str) -> bool:
    """Also of letters that this process's locale cannot decode: then they are surrogates."""
    try:
        return _bytes(text).decode("utf-8", "replace").isprintable()
    except UnicodeEncodeError:  # half a letter, which no file system has
        return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
