"""A run with rotation, zoom and colours goes on bitwise where it stood, with every loader."""

from __future__ import annotations

import pytest
from tiny_runs import end, same, small

import fasttrain
from fasttrain.errors import Stopped, UsageError
from fasttrain.loaders.dali import available
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")
ASKED = {"rotate": 20.0, "zoom": "0.8,1.2", "brightness": 0.2, "contrast": 0.2, "saturation": 0.5}
OFF = {"rotate": 0.0, "zoom": "1,1", "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


@pytest.fixture(scope="module", params=["resident", "dali"])
def loader(request):
    if request.param == "dali" and available():
        pytest.skip(f"DALI: {available()}")
    return request.param


def train(path, **options):
    fasttrain.train(small(**options), out=path)
    return end(path)


@pytest.mark.parametrize("name", [*OFF, "all"])
def test_a_killed_run_goes_on_bitwise_and_each_of_them_counts(tmp_path, name, loader):
    asked = {"loader": loader, **(ASKED if name == "all" else {name: ASKED[name]})}
    whole = train(tmp_path / "whole", **asked)
    for at in (2, 6):  # within the first epoch and within the second
        path = tmp_path / f"a{at}"
        with pytest.raises(Stopped):
            fasttrain.train(small(**asked), out=path, display=Interrupting(at))
        fasttrain.train(small(**asked), continued=path)
        assert same(end(path), whole)
    off = {**asked, **(OFF if name == "all" else {name: OFF[name]})}
    assert not same(train(tmp_path / "b", **off)["state"], whole["state"])  # the control


def test_a_run_goes_on_with_another_draw_only_if_that_is_meant(tmp_path):
    train(tmp_path / "a", **ASKED, epochs=1)
    other = {**ASKED, "zoom": "0.7,1.2", "epochs": 1}
    with pytest.raises(UsageError, match=r"--zoom \(0.7,1.2\): the run to be"):
        fasttrain.train(small(**other), continued=tmp_path / "a")
