"""Whole runs of the real network on a few synthetic images: the contract of the run directory."""

import json
import os
import shutil
import signal

import pytest
import tiny_runs
import torch

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.console.console import Display
from fasttrain.console.progress import ProgressLines
from fasttrain.errors import Stopped, UsageError
from fasttrain.models import build as models_build
from fasttrain.recipe.recipe import Recipe
from fasttrain.report import figures
from fasttrain.run import checks
from fasttrain.storage import checkpoint

SMALL = {
    "dataset": "synthetic",
    "train_limit": 48,
    "test_limit": 32,
    "batch_size": 16,
    "device": "cpu",
    "epochs": 2,
    "lr": 0.05,
}


def small(**changes):
    return Recipe(**{**SMALL, **changes})


class Interrupting(Display):
    """Sends this process a signal after the given training step or test batch, counted over all."""

    def __init__(self, at, number=signal.SIGTERM):
        super().__init__()
        self.at, self.number, self.seen = at, number, 0

    def follow(self, plan):
        follower = ProgressLines(self.log, plan)
        step = follower.step

        def counted(run):
            self.seen += 1
            if self.seen == self.at:
                os.kill(os.getpid(), self.number)
            step(run)

        follower.step = counted
        return Opened(follower)


class Opened:
    def __init__(self, follower):
        self.follower = follower

    def __enter__(self):
        return self.follower

    def __exit__(self, *exc):
        pass


def last(path):
    return checkpoint.load(path / "checkpoints" / "last.pt")


def same(a, b):
    """Bitwise equality of what training computed; seconds may differ."""
    rows = [[row[:6] for row in state["run"]["history"]] for state in (a, b)]
    flat = [torch.utils._pytree.tree_leaves([s["step"], s["schedule"], s["rng"]]) for s in (a, b)]
    equal = (
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(*flat, strict=True)
    )
    return rows[0] == rows[1] and all(equal)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, whole but for the network's size and for some of the figures."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    few = {name: figures.FIGURES[name] for name in ("loss", "accuracy", "lr")}
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(models_build, "ResNet18", tiny_runs.TinyNet)
        patches.setattr(figures, "FIGURES", few)
        fasttrain.train(small(), out=path)
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """An uninterrupted run of a tiny network."""
    path = tmp_path_factory.mktemp("runs") / "short"
    with tiny_runs.shrunk():
        fasttrain.train(small(), out=path)
    return path


def test_a_run_leaves_the_files_of_the_contract(whole):
    recipe = json.loads((whole / "recipe.json").read_text())
    assert Recipe(**recipe) == small()
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {
        "epoch",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "seconds",
        "images_per_second",
        "data_wait_seconds",
        "skipped_steps",
        "first_lr",
    }
    summary = json.loads((whole / "summary.json").read_text())
    weights = tiny_runs.TinyNet().parameters()
    assert summary["model_parameters"] == sum(weight.numel() for weight in weights)
    assert summary["best_test_accuracy"] == max(row["test_accuracy"] for row in rows)
    assert summary["final_test_accuracy"] == rows[-1]["test_accuracy"]
    assert 0 < summary["train_seconds"] < summary["total_seconds"]
    assert summary["mfu"] > 0
    assert {"compile_seconds", "eval_seconds", "data_wait_seconds"} <= set(summary)
    assert json.loads((whole / "environment.json").read_text())["torch"] == torch.__version__
    assert list((whole / "tensorboard").glob("events.*"))
    for name in ("loss", "accuracy", "lr"):
        assert (whole / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_checkpoint_holds_the_weights_that_scored_best(whole):
    best = checkpoint.load(whole / "checkpoints" / "best.pt")
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert best["test_accuracy"] == max(row["test_accuracy"] for row in rows)
    assert rows[best["progress"][0] - 1]["test_accuracy"] == best["test_accuracy"]


def test_tensorboard_reads_the_scalars_back(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    values = [event.value for event in events.Scalars("test/accuracy")]
    assert values == pytest.approx([row["test_accuracy"] for row in rows])


# Steps and test batches of the run, counted over all: 3 steps and 1 test batch an epoch.
@pytest.mark.parametrize(("at", "progress"), [(2, [0, 2]), (4, [0, 3]), (7, [1, 3])])
def test_a_stopped_run_goes_on_bitwise_from_where_it_stood(tiny, short, tmp_path, at, progress):
    with pytest.raises(Stopped, match=r"SIGTERM: saved\. Resume with: .* --resume") as caught:
        fasttrain.train(small(), out=tmp_path / "a", display=Interrupting(at))
    assert caught.value.code == 143
    assert last(tmp_path / "a")["progress"] == progress
    fasttrain.train(small(), continued=tmp_path / "a")
    assert same(last(tmp_path / "a"), last(short))
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_without_its_momentum_a_resumed_run_ends_elsewhere(tiny, short, tmp_path):
    """The control of the test above: it would see a forgotten momentum."""
    with pytest.raises(Stopped):
        fasttrain.train(small(), out=tmp_path / "a", display=Interrupting(4, signal.SIGINT))
    path = tmp_path / "a" / "checkpoints" / "last.pt"
    state = checkpoint.load(path)
    for values in state["step"]["optimizer"]["state"].values():
        values["momentum_buffer"].zero_()
    checkpoint.save(path, state)
    fasttrain.train(small(), continued=tmp_path / "a")
    assert not same(last(tmp_path / "a"), last(short))


def test_a_finished_run_says_so_and_is_left_alone(tiny, short):
    before = {path: path.stat().st_mtime_ns for path in short.rglob("*.pt")}
    assert len(fasttrain.train(small(), continued=short)) == 2
    assert {path: path.stat().st_mtime_ns for path in short.rglob("*.pt")} == before


def test_a_resumed_run_may_not_change_what_it_trains(tiny, short):
    with pytest.raises(UsageError, match=r"--lr \(0.1\): the run to be resumed has 0.05"):
        fasttrain.train(small(lr=0.1), continued=short)


def test_with_override_it_may(tiny, short, tmp_path):
    shutil.copytree(short, tmp_path / "a")
    rows = fasttrain.train(small(epochs=3), continued=tmp_path / "a", override=True)
    assert [row.epoch for row in rows] == [1, 2, 3]


def test_one_command_line_serves_launch_and_relaunch(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert checks.run_to_resume(None, None) is None
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    launch = [*words, "--epochs=1", "--resume", "--out", "a"]
    assert cli.main(launch) == 0
    assert "nothing to resume: starting a new run" in capsys.readouterr().out
    assert cli.main(launch) == 0
    assert "a is finished: nothing to do" in capsys.readouterr().out


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    tiny, short, tmp_path, capsys
):
    (tmp_path / "a").mkdir()
    shutil.copy(short / "recipe.json", tmp_path / "a")
    assert cli.main(["--resume", str(tmp_path / "a"), "--epochs", "2"]) == 0
    assert "has no checkpoint yet: starting at its beginning" in capsys.readouterr().out
    assert same(last(tmp_path / "a"), last(short))


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_goes_on(
    tiny, short, tmp_path, capsys
):
    fasttrain.train(small(), out=tmp_path / "a")
    path = tmp_path / "a" / "checkpoints" / "last.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert cli.main(["--resume", str(tmp_path / "a")]) == 0
    assert "last.pt" in capsys.readouterr().out
    assert same(last(tmp_path / "a"), last(short))
    assert (path.parent / "last.pt.damaged").exists()


@pytest.mark.parametrize("network", ["tiny", pytest.param("real", marks=pytest.mark.soak)])
def test_lr_auto_runs_the_range_test_and_trains_with_what_it_finds(network, request, tmp_path):
    if network == "tiny":
        request.getfixturevalue("tiny")
    rows = fasttrain.train(small(lr="auto", epochs=1), out=tmp_path / "a")
    sweep = json.loads((tmp_path / "a" / "lr_finder.json").read_text())
    assert len(sweep["lrs"]) <= 25
    assert rows[0].lr == pytest.approx(sweep["suggestion"])
    assert 1e-5 < sweep["suggestion"] < 10


def test_the_range_test_of_adamw_goes_over_smaller_rates(tiny, tmp_path):
    fasttrain.train(small(lr="auto", epochs=1, optimizer="adamw"), out=tmp_path / "a")
    lrs = json.loads((tmp_path / "a" / "lr_finder.json").read_text())["lrs"]
    assert lrs[0] == pytest.approx(1e-6)
    assert max(lrs) <= 0.1 + 1e-9


@pytest.mark.parametrize("optimizer", ["adamw", "apex", "kernel"])
def test_muon_and_another_optimizer_of_all_weights_are_refused(optimizer, tiny, tmp_path):
    said = rf"--optimizer \({optimizer}\): is of all weights, and --filters muon of some"
    with pytest.raises(UsageError, match=said):
        fasttrain.train(small(filters="muon", optimizer=optimizer), out=tmp_path / "a")


def test_training_stops_at_its_target(tiny, tmp_path):
    rows = fasttrain.train(small(target_accuracy=0.01, epochs=5), out=tmp_path / "a")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert len(rows) < 5
    assert summary["seconds_to_target"] > 0


@pytest.mark.parametrize("scheduler", ["onecycle", "cosine"])
def test_the_other_schedules_end_near_zero(tiny, tmp_path, scheduler):
    rows = fasttrain.train(small(scheduler=scheduler, epochs=3), out=tmp_path / "a")
    assert rows[-1].lr < 0.01 < max(row.lr for row in rows) <= 0.05 + 1e-9


def test_lines_are_plain_where_there_is_no_terminal(tiny, tmp_path):
    import io

    from rich.console import Console

    text = io.StringIO()
    fasttrain.train(small(), out=tmp_path / "a", display=Display(Console(file=text, width=200)))
    said = text.getvalue()
    assert "\x1b" not in said
    assert "loader dali (DALI is installed; not measured: the run is too short)" in said
    assert "    1  " in said
    assert "    2  " in said
    assert "best test accuracy" in said
