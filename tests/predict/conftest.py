"""One small trained run for every test of this room, and its test images as files."""

import pytest
from PIL import Image

from fasttrain.explain import subject
from tests import small_run


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "trained"
    small_run.train(path)
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
