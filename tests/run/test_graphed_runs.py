"""Whole runs whose step is captured, with a stand-in for CUDA graphs that replays no Python."""

from __future__ import annotations

import pytest
import tiny_runs

import fasttrain
from fasttrain.console.console import Display
from fasttrain.doctor import doctor
from fasttrain.doctor.batch_size import Largest
from fasttrain.engine import graphs
from fasttrain.engine.step import Step
from fasttrain.errors import Stopped
from fasttrain.machine import auto
from fasttrain.machine.auto import Choice
from fasttrain.recipe.recipe import Recipe
from tests.run.test_train import Interrupting
from tests.taped import Tape


@pytest.fixture
def tape(tiny):
    """Every run captures, on a CPU too."""
    made = Tape()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(auto, "graphs", lambda asked, *args, **more: Choice(asked, "a test"))
        patches.setattr(graphs, "cuda_graph", lambda function, device: made(function))
        yield made


AVERAGED = {"ema": 0.9, "mixup": 0.4, "cutmix": 1.0, "amp": "fp16"}


@pytest.mark.parametrize(
    "changes", [{}, {"scheduler": "onecycle", "lr": "auto"}, {"amp": "fp16"}, AVERAGED]
)
def test_a_captured_run_ends_bit_for_bit_as_a_plain_one(tape, tmp_path, changes):
    for value in ("off", "on"):
        fasttrain.train(tiny_runs.small(graphs=value, **changes), out=tmp_path / value)
        assert (tape.captures > 0) == (value == "on")
    ends = [tiny_runs.end(tmp_path / value) for value in ("off", "on")]
    assert tiny_runs.same(*ends)


def test_graphs_are_captured_before_the_clock_of_the_first_epoch_starts(tape, tmp_path):
    found = []

    def begun():
        found.append(tape.captures)

    fasttrain.train(tiny_runs.small(graphs="on"), out=tmp_path / "a", begun=begun)
    assert found == [2], "a training step and a prediction"
    assert tape.captures == 2


@pytest.mark.parametrize("at", [2, 5, 7])
def test_a_captured_run_that_is_stopped_goes_on_bit_for_bit(tape, tmp_path, at):
    recipe = tiny_runs.small(graphs="on")
    fasttrain.train(recipe, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        fasttrain.train(recipe, out=tmp_path / "cut", display=Interrupting(at))
    fasttrain.train(recipe, continued=tmp_path / "cut")
    assert tiny_runs.same(tiny_runs.end(tmp_path / "cut"), tiny_runs.end(tmp_path / "whole"))


def test_the_largest_batch_is_sought_without_a_graph(tape):
    """A graph is of one size alone, and its memory would stay."""
    kinds = []
    with pytest.MonkeyPatch.context() as patches:
        found = Largest(64, "a test")
        patches.setattr(doctor, "largest", lambda step: kinds.append(type(step)) or found)
        recipe = Recipe(device="cpu", loader="resident", amp="off", graphs="on")
        assert doctor.find_batch_size(recipe, display=Display()) == 64
    assert kinds == [Step]
