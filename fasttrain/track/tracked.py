"""What an adapter of a tracker (wandb, mlflow, a function) is given, and what it gives.

They are apart from the process that calls them, so that neither imports the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

KEPT, LOG = "tracker.json", "tracker.log"


class About(NamedTuple):
    """A run to be told: its folder, its name for people, its recipe, and `kept` of a resumed one.

    `tracker` is the value of --track.
    """

    tracker: str
    run: Path
    title: str
    recipe: dict[str, Any]
    kept: dict[str, str]


class Tracked(Protocol):
    """An open run of a tracker. `kept` finds it again after a resume; `note` is told the person."""

    kept: dict[str, str]
    note: str

    def epoch(self, row: dict[str, Any]) -> None:
        """Tell a row of metrics.jsonl."""
        ...

    def end(self, summary: dict[str, Any]) -> None:
        """Tell summary.json, and that the run is complete."""
        ...

    def stop(self) -> None:
        """Tell that the run was interrupted; it may be resumed."""
        ...
