"""Why a run ends, and that it says so: all epochs, a target, no gain, or the clock."""

from __future__ import annotations

import json
import re

import pytest
from processes import flags
from ranks import Ranks
from tiny_runs import end, same, small

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.engine.state import Epoch
from fasttrain.errors import Stopped
from fasttrain.report import html
from fasttrain.report.read import read
from fasttrain.run import ending
from tests.run.test_train import Interrupting

# A rate so low that hardly an image changes its class.
STILL = {"lr": 1e-8, "epochs": 40, "stop_after": 2}


def history(*scores: float, monitor: str = "accuracy") -> list[Epoch]:
    rows = []
    for number, score in enumerate(scores, 1):
        of = {"accuracy": (1.0, score), "loss": (score, 0.5)}[monitor]
        rows.append(Epoch(number, 0.1, 1.0, 0.5, *of, 1.0, 1.0, 0.0))
    return rows


@pytest.mark.parametrize(
    ("monitor", "scores", "since"),
    [
        ("accuracy", (0.1,), 0),
        ("accuracy", (0.1, 0.2), 0),
        ("accuracy", (0.1, 0.2, 0.2, 0.15), 2),
        ("accuracy", (0.3, 0.2, 0.25, 0.28), 3),
        ("loss", (0.3, 0.2, 0.25, 0.28), 2),
        ("loss", (0.3, 0.3, 0.29), 0),
    ],
)
def test_epochs_are_counted_since_the_best_one(monitor, scores, since):
    rows = history(*scores, monitor=monitor)
    assert ending.since_gain(rows, monitor) == since
    for limit in (1, 2, 3):
        recipe = small(monitor=monitor, stop_after=limit, epochs=9)
        assert ending.enough(recipe, rows, 1.0) == (since >= limit)
    assert not ending.enough(small(monitor=monitor), rows, 1.0)  # the control: off


@pytest.mark.parametrize(
    ("changes", "scores", "reason"),
    [
        ({"epochs": 2}, (0.1, 0.2), "epoch 2, the last, is trained"),
        ({"target_accuracy": 0.3}, (0.1, 0.3), "target accuracy of 30.00 % reached in epoch 2"),
        ({"stop_after": 2}, (0.3, 0.1, 0.2), "no gain of the accuracy in 2 epochs, after epoch 1"),
        ({"max_time": 5.0}, (0.1, 0.2), "time limit reached in epoch 2"),
    ],
)
def test_the_reason_is_named(changes, scores, reason):
    assert ending.reason(small(**{"epochs": 9, **changes}), history(*scores)) == reason


def said(path) -> str:
    return json.loads((path / "summary.json").read_text())["ended"]


def epochs(path) -> int:
    """The epochs of a run, which must have ended two epochs after its best, and not before."""
    accuracies = [row[5] for row in end(path)["rows"]]
    counts = range(1, len(accuracies) + 1)
    since = [count - 1 - accuracies.index(max(accuracies[:count])) for count in counts]
    assert since.index(2) == len(since) - 1 < 39
    return len(accuracies)


def test_a_run_without_a_gain_stops_says_why_and_is_finished(tiny, tmp_path, capsys):
    path = tmp_path / "a"
    words = [word for word in flags(path, **STILL) if word != "--resume"]
    assert cli.main(words) == 0
    before = epochs(path)
    reason = f"no gain of the accuracy in 2 epochs, after epoch {before - 2}"
    assert f"stopped early: {reason}\n" in capsys.readouterr().out
    assert said(path) == reason
    assert re.search(rf"Stopped early</dt>\s*<dd>{reason}<", html.page(read(path)))
    assert cli.main(["--resume", str(path)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert cli.main(["--resume", str(path), "--stop-after=3"]) == 0
    assert len(end(path)["rows"]) > before, "with more patience it goes on"


def test_a_resumed_run_goes_on_counting(tiny, tmp_path):
    """Stopped in its third epoch; a count that began anew would end it later."""
    recipe = small(**STILL)
    fasttrain.train(recipe, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        fasttrain.train(recipe, out=tmp_path / "cut", display=Interrupting(11))
    fasttrain.train(recipe, continued=tmp_path / "cut")
    assert epochs(tmp_path / "cut") >= 3
    assert same(end(tmp_path / "cut"), end(tmp_path / "whole"))


def test_a_run_of_all_its_epochs_is_not_called_stopped(tiny, tmp_path):
    fasttrain.train(small(epochs=1, stop_after=1), out=tmp_path / "a")
    assert said(tmp_path / "a") == "epoch 1, the last, is trained"
    assert "Stopped early" not in html.page(read(tmp_path / "a"))


@pytest.mark.slow
def test_two_processes_stop_after_the_same_epoch_and_go_on_bitwise_in_parts_and_clipped(tmp_path):
    more = {"accumulate": 2, "clip_grad": 1.0, "optimizer": "adamw", "warmup": 1.3}
    for name, faults, status in (("a", {}, 0), ("b", {1: "SIGTERM@step:6"}, 143), ("b", {}, 0)):
        ended = Ranks(tmp_path / "log", flags(tmp_path / name, **STILL, **more), faults=faults)
        ended = ended.ended()
        assert [each.status for each in ended] == [status, status], ended
        assert status or [each.err for each in ended] == ["", ""]
    assert epochs(tmp_path / "a") >= 3
    assert same(end(tmp_path / "a"), end(tmp_path / "b"))
