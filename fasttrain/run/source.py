"""Records the source of a user's own network with a run, and compares it when the run is resumed.

A recipe names such a network only by its function. The same name stands for another network once
the file has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..models.own import source_digest
from ..recipe.recipe import SOURCE, Recipe


def digest_of(recipe: Recipe) -> dict[str, str]:
    """Return the SHA-256 of the file that makes the network, by its name in recipe.json and in a
    checkpoint; empty for a network of fasttrain or timm. Imports a user's own module."""
    digest = source_digest(recipe.model)
    return {} if digest is None else {SOURCE: digest}


def is_changed(kept: Mapping[str, Any] | None, recipe: Recipe) -> bool:
    """Return whether a run, `kept` in a checkpoint or recipe.json, has another source on record.

    A run of an older release has none.
    """
    before, now = (kept or {}).get(SOURCE), digest_of(recipe).get(SOURCE)
    return before is not None and now is not None and before != now


def check(state: Mapping[str, Any], recipe: Recipe, *, override: bool = False) -> None:
    """Raise UsageError if the source has changed since `state` was saved, unless `override`."""
    if not override and is_changed(state, recipe):
        raise UsageError(
            f"--model ({recipe.model}): the source of {recipe.model.partition(':')[0]} has changed "
            "since the run was saved, and may train something else. Restore the file, start a new "
            "run with --out, or add --override."
        )
