"""Whole runs with an average of the weights or mixed images: what they keep, how they resume."""

from __future__ import annotations

import json

import pytest
import tiny_runs
import torch
from tiny_runs import end, same, small

import fasttrain
from fasttrain.engine import average, monitors
from fasttrain.engine.state import Epoch
from fasttrain.engine.step import Step
from fasttrain.errors import Stopped, UsageError
from fasttrain.report.read import read
from fasttrain.run import resume
from fasttrain.storage import checkpoint
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")
ASKED = {"ema": 0.9, "mixup": 0.4, "cutmix": 1.0}
OFF = {"ema": None, "mixup": 0.0, "cutmix": 0.0}


def train(path, **options):
    fasttrain.train(small(**options), out=path)
    return end(path)


def rows_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def averages(path):
    """The averaged network's numbers by epoch, which `end` leaves out."""
    names = [name for name in rows_of(path)[0] if name.startswith("ema_")]
    return [[row[name] for name in names] for row in rows_of(path)]


ALL = {**ASKED, "label_smoothing": 0.1, "balance": "loss", "accumulate": 2, "monitor": "loss"}


@pytest.mark.parametrize(
    ("asked", "forgets"),
    [({"ema": 0.9}, True)]
    + [(asked, False) for asked in ({"ema": 0.9}, {"mixup": 0.4}, {"cutmix": 1.0}, ALL)],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else f"forgets-{value}",
)
def test_a_killed_run_goes_on_bitwise_and_each_of_them_counts(
    tmp_path, asked, forgets, monkeypatch
):
    """Stopped in the first epoch and in the second; with `forgets` the average begins anew."""
    whole = train(tmp_path / "whole", **asked)
    if forgets:
        real = average.Average.restore
        monkeypatch.setattr(average.Average, "restore", lambda self, _, m: real(self, None, m))
    for at in (2, 6):
        path = tmp_path / f"a{at}"
        with pytest.raises(Stopped):
            fasttrain.train(small(**asked), out=path, display=Interrupting(at))
        fasttrain.train(small(**asked), continued=path)
        assert same(end(path), whole) != forgets
        assert (averages(path) == averages(tmp_path / "whole")) != forgets
    if not forgets:
        off = train(tmp_path / "off", **{**asked, **{n: OFF[n] for n in asked if n in OFF}})
        assert not same(off["state"], whole["state"])


def test_an_average_only_watches_the_training(tmp_path):
    with_average, without = train(tmp_path / "a", ema=0.9), train(tmp_path / "b")
    assert with_average["rows"] == without["rows"]
    steps = [found["state"][1] for found in (with_average, without)]
    assert same(steps[0]["model"], steps[1]["model"])
    assert set(steps[0]) - set(steps[1]) == {"average"}
    assert not [name for name in rows_of(tmp_path / "b")[0] if "ema" in name]
    assert "best_weights" not in json.loads((tmp_path / "b" / "summary.json").read_text())


@pytest.mark.parametrize("wins", ["averaged", "trained"])
def test_best_holds_the_better_weights_and_says_which(tmp_path, wins, monkeypatch):
    """The other network answers class 0 with a confidence that makes its loss large."""
    loser = "predict" if wins == "averaged" else "predict_averaged"
    real = getattr(Step, loser)
    certain = 1000.0 * torch.eye(10)[0]
    monkeypatch.setattr(Step, loser, lambda step, images: real(step, images) * 0 + certain)
    path = tmp_path / "a"
    train(path, ema=0.5, epochs=3, train_limit=160, monitor="loss")
    summary = json.loads((path / "summary.json").read_text())
    best = checkpoint.load(path / "checkpoints" / "best.pt")
    last = checkpoint.load(path / "checkpoints" / "last.pt")
    row = next(row for row in rows_of(path) if row["epoch"] == summary["best_epoch"])
    assert summary["best_weights"] == wins
    kind = "ema_test_accuracy" if wins == "averaged" else "test_accuracy"
    assert best["test_accuracy"] == summary["best_test_accuracy"] == row[kind]
    assert read(path).best.test_accuracy == row[kind]
    assert list(best["model"]) == list(last["step"]["model"])
    if best["progress"] == last["progress"]:
        expected = average.weights(last["step"]["average"])
        expected = expected if wins == "averaged" else last["step"]["model"]
        assert same(dict(best["model"]), dict(expected))
    recipe = small(ema=0.5, epochs=4, train_limit=160, monitor="loss")
    fasttrain.train(recipe, continued=path, override=True)
    assert not list(path.glob("checkpoints/*.abandoned")), "it knows best.pt again"


def test_which_network_is_better_goes_by_the_monitor():
    row = Epoch(1, 0.1, 1.0, 0.5, 1.0, 0.6, 1.0, 1.0, 0.0, ema_test_loss=2.0, ema_test_accuracy=0.7)
    assert monitors.better(row).test_accuracy == monitors.best_score(row) == 0.7
    assert not monitors.averaged_is_better(row, "loss")
    assert monitors.better(row, "loss") is row
    assert monitors.score(row) == 0.6, "the schedule follows the trained network"
    equal = row._replace(ema_test_accuracy=0.6)
    assert not monitors.averaged_is_better(equal)
    assert monitors.is_better(row, equal)


def test_a_run_of_val_names_the_averages_numbers_by_val():
    row = Epoch(1, 0.1, 1.0, 0.5, 1.0, 0.6, 1.0, 1.0, 0.0)
    assert not [name for name in monitors.line(row, "val") if "ema" in name]
    known = monitors.line(row._replace(ema_test_loss=1.0, ema_test_accuracy=0.7), "val")
    assert [name for name in known if "ema" in name] == ["ema_val_loss", "ema_val_accuracy"]
    assert monitors.plain(row) == list(row[:11])
    assert resume.Epoch(*monitors.plain(row)) == row


def test_a_run_goes_on_with_another_decay_only_if_that_is_meant(tmp_path):
    train(tmp_path / "a", epochs=1)
    with pytest.raises(UsageError, match=r"--ema \(0.9\): the run to be resumed has None"):
        fasttrain.train(small(ema=0.9, epochs=1), continued=tmp_path / "a")
    fasttrain.train(small(ema=0.9), continued=tmp_path / "a", override=True)
    assert len(rows_of(tmp_path / "a")) == 2
    assert "ema_test_accuracy" in rows_of(tmp_path / "a")[1]


def test_a_target_may_be_reached_by_the_average():
    recipe = small(target_accuracy=0.7)
    row = Epoch(1, 0.1, 1.0, 0.5, 1.0, 0.6, 1.0, 1.0, 0.0)
    assert not fasttrain.run.ending.enough(recipe, [row], 0.0)
    found = row._replace(ema_test_loss=1.0, ema_test_accuracy=0.7)
    assert fasttrain.run.ending.enough(recipe, [found], 0.0)


def test_mixed_images_train_under_the_range_test_too(tmp_path):
    train(tmp_path / "a", lr="auto", **ASKED)
    assert (tmp_path / "a" / "lr_finder.json").exists()
    assert tiny_runs.end(tmp_path / "a")["summary"][0] == 2
