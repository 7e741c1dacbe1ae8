"""A command as it was typed, and the console that it prints to.

Every command takes one, so that a new command needs no other arguments.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TextIO, cast

from ..console.stdout import BrokenPipeSafe
from ..parallel import launch
from ..recipe.recipe import Scalar

if TYPE_CHECKING:
    from ..console.console import Display

BEGAN = perf_counter()


class Call(NamedTuple):
    """A command as it was typed: its options, the given fields of a Recipe, the line itself."""

    options: argparse.Namespace
    given: dict[str, Scalar]
    line: str
    place: launch.Place

    def display(self, stream: TextIO | None = None) -> Display:
        """The console of rank 0, on standard output or `stream`; the other ranks print nothing."""
        from rich.console import Console

        from ..console.console import Display

        if self.place.rank:
            return Display(None)
        return Display(Console(file=cast(TextIO, BrokenPipeSafe(stream or sys.stdout))))
