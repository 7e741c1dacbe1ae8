"""One small trained run for every test of this room."""

import pytest

import fasttrain
from fasttrain.recipe.recipe import Recipe
from tests.tiny_runs import SMALL


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "trained"
    recipe = Recipe(**{**SMALL, "model": "sprint", "widths": "8,8,8", "train_limit": 480})
    fasttrain.train(recipe, out=path)
    return path
