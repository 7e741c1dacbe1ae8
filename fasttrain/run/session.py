"""The objects that the functions of one run share: recipe, folder, display, processes.

One tuple keeps the functions' parameter lists short.
"""

from __future__ import annotations

from typing import NamedTuple

from ..console.console import Display
from ..parallel.group import Group
from ..parallel.signals import Signals
from ..recipe.recipe import Recipe
from ..track.tracker import Tracker
from .ledger import Ledger
from .rundir import NullRunDir, RunDir


class Session(NamedTuple):
    """An open run directory and the objects with the same lifetime."""

    recipe: Recipe
    folder: RunDir | NullRunDir
    display: Display
    ledger: Ledger
    group: Group
    signals: Signals
    tracker: Tracker
