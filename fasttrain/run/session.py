"""What the functions of one run share: what was asked, where it goes, and who takes part."""

from __future__ import annotations

from typing import NamedTuple

from ..console.console import Display
from ..parallel.group import Group
from ..parallel.signals import Signals
from ..recipe.recipe import Recipe
from .ledger import Ledger
from .rundir import NullRunDir, RunDir


class Session(NamedTuple):
    """An open run directory and everything that lasts as long as it."""

    recipe: Recipe
    folder: RunDir | NullRunDir
    display: Display
    ledger: Ledger
    group: Group
    signals: Signals
