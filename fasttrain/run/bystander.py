"""The run directory of a process that writes none: of several processes only rank 0 does.

It has the verbs of a RunDir and does nothing at them, so that a training need not ask who it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.listing import Listing


class NullRunDir(AbstractContextManager["NullRunDir"]):
    """Stands beside the run in `path`, which it names and never touches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures, self.tensorboard = path / "figures", path / "tensorboard"
        self.checkpoints = NullCheckpoints()
        self.replaces = False

    def announce(self, recipe: dict[str, Any]) -> None:
        """Rank 0 does."""

    def begin(self, recipe: dict[str, Any], environment: dict[str, Any]) -> None:
        """Rank 0 does."""

    def write_json(self, name: str, value: Any) -> None:
        """Rank 0 writes it."""

    def write_listing(self, found: Listing) -> None:
        """Rank 0 writes it."""

    def append_epoch(self, row: dict[str, Any]) -> None:
        """Rank 0 adds it."""

    def rewrite_epochs(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rank 0 rewrites them."""

    def reopen(self) -> None:
        """Rank 0 does."""

    def close(self) -> None:
        """There is nothing to close."""

    def __exit__(self, *exc: object) -> None:
        self.close()


class NullCheckpoints:
    """Of a Checkpoints the verbs that save."""

    def save_last(self, state: dict[str, Any]) -> int:
        """Rank 0 saves it; no bytes here."""
        return 0

    def save_best(self, state: dict[str, Any]) -> int:
        """Rank 0 saves it; no bytes here."""
        return 0
