"""Tells a run to a person's own function, FUNCTION(event, values) in MODULE:FUNCTION.

It is called with "start", then with "epoch" for each epoch, then with "end".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..recipe import own_function
from .tracked import About

Function = Callable[[str, dict[str, Any]], object]


class FunctionRun:
    """A run that a function is told; `kept` holds the text that its "start" returned."""

    def __init__(self, function: Function, kept: dict[str, str]) -> None:
        self._function, self.kept = function, kept
        self.note = ""

    def epoch(self, row: dict[str, Any]) -> None:
        """Call it with a row of metrics.jsonl."""
        self._function("epoch", row)

    def end(self, summary: dict[str, Any]) -> None:
        """Call it with summary.json."""
        self._function("end", summary)

    def stop(self) -> None:
        """Tell it nothing: the run may be resumed."""


def start(about: About) -> FunctionRun:
    """Call the function with the recipe, the folder and what it returned before a resume."""
    name = about.tracker
    function = own_function.function("--track", name, returns="takes an event and its values")
    values = {"run": str(about.run), "recipe": about.recipe, "id": about.kept.get("id")}
    found = function("start", values)
    return FunctionRun(function, {"id": found} if isinstance(found, str) else about.kept)
