"""The values of flags that are no field of a Recipe: counts and indices.

A wrong value is refused in one line, before anything is imported or opened.
"""

from __future__ import annotations

from ..errors import UsageError, shown


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


def _refused(flag: str, text: str, bounds: str) -> UsageError:
    return UsageError(f"{flag} ({shown(repr(text))}): must be a whole number {bounds}. See --help.")
