"""Remembers what was measured on this machine, in the user's cache, under a digest of its facts.

A second start then needs no measuring. Whatever is wrong with a file, it is measured anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from ..errors import OutputError
from ..storage import atomic

LARGEST = 1 << 20  # bytes; a file of ours has some thousand


def default_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder for what is measured, in `cache_dir` or the user's cache; None without a home."""
    if cache_dir is not None:
        return Path(cache_dir) / "measured"
    try:
        return platformdirs.user_cache_path("fasttrain", appauthor=False) / "measured"
    except RuntimeError:
        return None


def digest(facts: Mapping[str, Any]) -> str:
    """A name for `facts`, plain values, that is another one for any other facts."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(folder: Path | None, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was written for `facts`; None if there is nothing sound."""
    if folder is None:
        return None
    try:
        path = folder / f"{digest(facts)}.json"
        if path.stat().st_size > LARGEST:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        same = json.dumps(found["facts"], sort_keys=True)
        return found["measured"] if same == json.dumps(_plain(facts), sort_keys=True) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write(folder: Path | None, facts: Mapping[str, Any], measured: Mapping[str, Any]) -> str | None:
    """Write what was measured, atomically; return why it could not be, in one line."""
    if folder is None:
        return "there is no home folder"
    try:
        atomic.make_folder(folder)
        path = folder / f"{digest(facts)}.json"
        atomic.remove_leftovers(folder, of=path.name)
        atomic.write_json(path, {"facts": _plain(facts), "measured": measured})
    except OutputError as error:
        return str(error).partition(". ")[0]
    return None


def _plain(facts: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(facts, sort_keys=True, default=str))
