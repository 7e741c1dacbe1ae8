"""Whole runs on a GPU: with and without a graph, resumed, and several in one process."""

from __future__ import annotations

import json

import pytest
import tiny_runs

import fasttrain
from fasttrain.cli import repeat
from fasttrain.errors import Stopped
from tests.run.test_train import Interrupting

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("tiny")]

EXACT = {"device": "cuda", "amp": "bf16", "compile": "off", "deterministic": True}


@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("scheduler", ["onecycle", "plateau"])
def test_a_run_that_is_stopped_within_an_epoch_ends_bit_for_bit_as_one_left_alone(
    tmp_path, graphs, scheduler
):
    """With dropout, whose random numbers are those of the GPU."""
    more = {"ema": 0.9, "mixup": 0.4, "cutmix": 1.0} if scheduler == "plateau" else {}
    recipe = tiny_runs.small(graphs=graphs, scheduler=scheduler, **EXACT, **more)
    fasttrain.train(recipe, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        fasttrain.train(recipe, out=tmp_path / "cut", display=Interrupting(7))
    fasttrain.train(recipe, continued=tmp_path / "cut")
    assert tiny_runs.same(tiny_runs.end(tmp_path / "cut"), tiny_runs.end(tmp_path / "whole"))


def test_a_graph_trains_to_the_numbers_of_a_plain_run(tmp_path):
    rows = []
    for graphs in ("off", "on"):
        recipe = tiny_runs.small(graphs=graphs, epochs=3, **{**EXACT, "amp": "off"})
        rows.append(fasttrain.train(recipe, out=tmp_path / graphs))
    for plain, graphed in zip(*rows, strict=True):
        assert graphed.train_loss == pytest.approx(plain.train_loss, rel=1e-2)
        assert graphed.lr == plain.lr


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_two_runs_in_one_process_give_what_each_alone_gives(tmp_path, graphs):
    recipe = tiny_runs.small(graphs=graphs, lr="auto", **EXACT)
    repeat.train_runs(recipe, 2, out=tmp_path / "runs")
    found = json.loads((tmp_path / "runs" / "series.json").read_text())
    assert [row["seed"] for row in found["runs"]] == [0, 1]
    fasttrain.train(tiny_runs.small(graphs=graphs, lr="auto", seed=1, **EXACT), out=tmp_path / "b")
    ends = [tiny_runs.end(path) for path in (tmp_path / "runs" / "seed-1", tmp_path / "b")]
    assert tiny_runs.same(*(end["rows"] for end in ends))
