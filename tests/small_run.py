"""A small trained run of the sprint's network, for tests of what is done with a run."""

from __future__ import annotations

from pathlib import Path

import pytest

import fasttrain
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import finish
from tests.tiny_runs import SMALL


def train(where: Path, **changes: object) -> None:
    """Train a run without its pictures and its page, which take seconds."""
    # More test images than an evaluation's batch of 250 has.
    recipe = {"model": "sprint", "widths": "8,8,8", "train_limit": 480, "test_limit": 300}
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(finish, "draw_end", lambda *args, **options: None)
        patches.setattr(finish.figures, "draw_all", lambda *args, **options: None)
        fasttrain.train(Recipe(**{**SMALL, **recipe, **changes}), out=where)
