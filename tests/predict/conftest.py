"""One small trained run for every test of this room, and its test images as files."""

import pytest
from PIL import Image

import fasttrain
from fasttrain.explain import subject
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import finish
from tests import tiny_runs
from tests.tiny_runs import SMALL


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "trained"
    # More test images than an evaluation's batch of 250 has.
    limits = {"train_limit": 480, "test_limit": 300}
    recipe = Recipe(**{**SMALL, **limits, "model": "sprint", "widths": "8,8,8"})
    with pytest.MonkeyPatch.context() as patches:  # no figures: matplotlib takes two seconds
        tiny_runs.shrink(patches, report=True)
        patches.setattr(finish.figures, "draw_all", lambda run, **_: None)
        patches.setattr(finish, "draw_end", lambda run, **_: None)
        fasttrain.train(recipe, out=path)
    return path


@pytest.fixture(scope="package")
def pictures(trained, tmp_path_factory):
    """The run's test images as PNGs in a folder for each class, so in another order."""
    found = subject.open_run(trained, device="cpu")
    root = tmp_path_factory.mktemp("pictures")
    for number, (pixels, label) in enumerate(zip(*found.analysed, strict=True)):
        path = root / found.data.classes[label] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root
