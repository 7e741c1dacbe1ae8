"""Builds what a run trains with: every `auto` is measured at its first start, and then kept.

Another precision would be another training, so that a resumed run takes what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from ..console.console import Display
from ..data import Data
from ..engine.build import Built, build
from ..engine.trial import Trial
from ..engine.tune import Tuned, tune
from ..machine import remembered
from ..parallel.group import Group
from ..recipe.recipe import Recipe


def tuned(
    recipe: Recipe,
    data: Data,
    group: Group,
    display: Display,
    *,
    recorded: Mapping[str, str] | None = None,
    counted: AbstractContextManager[None] | None = None,
    log: Callable[[str], None] | None = None,
) -> Built:
    """Build the parts of a run; a new one, of which nothing is `recorded`, is measured first.

    `counted` is open while measuring; `log` says what is done, by default `display`'s.
    """

    def measure(trial: Trial) -> Tuned | None:
        if recipe.tune == "off":
            return None
        watched = group.watched(recipe.hang_timeout, lambda: "the measuring of what is fastest")
        with counted or nullcontext(), watched as progressed:
            return tune(
                trial,
                mode=recipe.tune,
                folder=remembered.default_folder(recipe.cache_dir),
                log=log or display.log,
                progressed=progressed,
            )

    fresh = recorded is None
    return build(recipe, data, group, fresh=fresh, recorded=recorded, tune=measure)
