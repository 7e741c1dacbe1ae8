"""JSON and text that every reader accepts.

A run may have infinite numbers and undecodable paths; neither may make its files unreadable.
"""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return standard JSON: NaN and infinities become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def encode(text: str) -> bytes:
    """Encode as UTF-8; lone surrogates, of an undecodable path, become JSON escapes."""
    return text.encode("utf-8", "backslashreplace")


def for_shell(path: Path) -> str:
    """Quote a path for a shell command that a user can copy."""
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
