"""What a run writes as text, in a form that every reader accepts.

A run's numbers may be infinite and its paths undecodable; neither may make a file unreadable.
"""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader accepts: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def encode(text: str) -> bytes:
    """UTF-8; the lone surrogates of an undecodable path become the escapes that JSON has."""
    return text.encode("utf-8", "backslashreplace")


def for_shell(path: Path) -> str:
    """A path as a word of a command line that a person can copy."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
