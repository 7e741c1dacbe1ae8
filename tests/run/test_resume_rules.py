"""What --resume does with a run, and what it refuses, before anything is changed."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_runs
import torch
from tiny_runs import end, same, small, train

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.engine import step
from fasttrain.errors import Stopped, UsageError
from fasttrain.recipe.recipe import FIELDS, Recipe, flag
from fasttrain.run import finish, folders, resume
from fasttrain.run import train as course
from fasttrain.storage import checkpoint
from tests.run.test_train import Interrupting
from tests.storage.test_checkpoint import flip

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run."""
    with tiny_runs.shrunk():
        path = tmp_path_factory.mktemp("runs") / "done"
        train(path)
    return path


@pytest.fixture
def half(tmp_path):
    """A run that was stopped in its second epoch."""
    path = tmp_path / "half"
    with pytest.raises(Stopped):
        fasttrain.train(small(), out=path, display=Interrupting(6))
    return path


def everything(path: Path) -> dict[str, object]:
    """Each file and folder with its content, its number and when it was last changed."""
    found = [path, *path.rglob("*")]
    return {
        str(file): (
            file.stat().st_mtime_ns,
            file.stat().st_ino,
            file.read_bytes() if file.is_file() else sorted(os.listdir(file)),
        )
        for file in found
    }


@pytest.fixture
def nothing_is_trained(monkeypatch):
    def refuse(*args):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(step.Step, "__call__", refuse)


def test_a_finished_run_says_so_and_nothing_in_its_folder_is_touched(done, capsys):
    before = everything(done)
    assert cli.main(["--resume", str(done)]) == 0
    assert capsys.readouterr().out == f"{done} is finished: nothing to do.\n"
    assert len(fasttrain.train(small(), continued=done)) == 2
    assert everything(done) == before


def test_a_run_that_has_reached_its_target_is_as_finished(tmp_path, capsys):
    path = tmp_path / "a"
    train(path, target_accuracy=0.01, epochs=5)
    before = everything(path)
    assert cli.main(["--resume", str(path)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert everything(path) == before
    assert cli.main(["--resume", str(path), "--target-accuracy", "1.0"]) == 0
    assert len(end(path)["rows"]) == 5, "with a higher target it goes on"


@pytest.mark.parametrize("lost", ["report.html", "summary.json"])
def test_a_run_that_lacks_only_its_report_or_summary_gets_them_without_training(
    lost, done, tmp_path, nothing_is_trained
):
    path = tmp_path / "a"
    shutil.copytree(done, path)
    (path / lost).unlink()
    before = (path / "checkpoints" / "last.pt").read_bytes()
    assert folders.newest(tmp_path) == path, "it is not finished"
    train(path)
    assert folders.newest(tmp_path) is None
    assert same(end(path), end(done))
    assert (path / "report.html").exists()
    assert (path / "checkpoints" / "last.pt").read_bytes() == before


def test_a_run_killed_while_it_looks_back_is_finished_by_resuming(
    done, tmp_path, monkeypatch, nothing_is_trained
):
    path = tmp_path / "a"
    shutil.copytree(done, path)
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "finished": False}))
    looks = []
    real = finish.explain_run
    monkeypatch.setattr(finish, "explain_run", lambda *a, **o: (looks.append(a), real(*a, **o)))
    train(path)
    train(path)
    assert len(looks) == 1, "and only once"
    assert json.loads((path / "summary.json").read_text())["finished"] is True


def test_what_described_the_end_of_a_run_goes_when_the_run_goes_on(done, tmp_path, monkeypatch):
    path = tmp_path / "a"
    shutil.copytree(done, path)

    def interrupted(*args, **options):
        assert not (path / "summary.json").exists()
        assert not (path / "report.html").exists()
        raise Stopped("now", signum=15)

    monkeypatch.setattr(course, "fit", interrupted)
    with pytest.raises(Stopped):
        fasttrain.train(small(epochs=3), continued=path, override=True)
    assert folders.newest(tmp_path) == path


OTHER = {
    "recipe": "reference",
    "epochs": 3,
    "batch_size": 8,
    "lr": 0.1,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.1,
    "decay_norms": False,
    "clip_grad": 1.0,
    "accumulate": 2,
    "scheduler": "cosine",
    "warmup": 0.5,
    "patience": 9,
    "factor": 0.5,
    "threshold": 0.5,
    "crop_padding": 0,
    "border": "reflect",
    "flip": 0.0,
    "cutout": 0,
    "cutout_probability": 0.0,
    "statistics": "reference",
    "dataset": "cifar10",
    "train_limit": 32,
    "test_limit": 16,
    "seed": 7,
    "model": "sprint",
    "widths": "32,64,64",
    "label_smoothing": 0.1,
    "filters": "muon",
    "alternate": True,
    "sync_bn": True,
    "test_flips": True,
    "init": "runs/other",
    "freeze": True,
    "balance": "loss",
    "monitor": "loss",
    "limits": "first",
    "side": 48,
    "fit": "pad",
    "classes": 7,
    "holdout": 0.3,
    "skip_bad_files": True,
    "rotate": 7.0,
    "bias_rate": 75.0,
    "zoom": "0.9,1.1",
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 1.0,
}
FREE = {"data_dir", "loader", "device", "amp", "compile", "graphs", "optimizer", "deterministic"}
FREE |= {"tune"}
FREE |= {"save_every", "hang_timeout", "target_accuracy", "max_time", "cam_layer", "cache_dir"}
FREE |= {"track"}
FREE |= {"stop_after"}
FREE |= {"checkpoint_every", "keep"}


def test_every_field_is_known_to_be_free_or_bound():
    """A new field of Recipe has to be put on one of the two lists, and stands on the right one."""
    assert set(OTHER) | FREE >= set(FIELDS)
    assert resume.MAY_CHANGE & set(OTHER) == set()


@pytest.mark.parametrize("name", OTHER)
def test_a_changed_value_is_exit_2_with_old_and_new_and_changes_nothing(name, half, capsys):
    before = everything(half)
    old, new = getattr(small(), name), OTHER[name]
    words = {True: flag(name), False: f"--no-{flag(name)[2:]}"}
    word = words[new] if isinstance(new, bool) else f"{flag(name)}={new}"
    assert cli.main(["--resume", str(half), word]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"fasttrain: error: {flag(name)} ({new}): the run to be resumed has {old}"
    )
    assert said.count("\n") == 1
    after = everything(half)
    kept = [file for file in before if Path(file).is_file() and Path(file).name != ".lock"]
    assert {file: after[file] for file in kept} == {file: before[file] for file in kept}


@pytest.mark.parametrize("done_too", [True, False])
def test_a_finished_run_refuses_changes_as_any_other(done_too, done, half):
    with pytest.raises(UsageError, match=r"--epochs \(9\): the run to be resumed has 2"):
        fasttrain.train(small(epochs=9), continued=done if done_too else half)


def test_with_override_the_changed_value_is_taken_and_written_down(half):
    arguments = ["--resume", str(half), "--override", "--epochs=3", "--momentum=0.5"]
    assert cli.main(arguments) == 0
    recipe = Recipe(**json.loads((half / "recipe.json").read_text()))
    assert (recipe.epochs, recipe.momentum) == (3, 0.5)
    assert len(end(half)["rows"]) == 3


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "onecycle"])
@pytest.mark.parametrize(("ended", "epochs"), [(True, 4), (False, 4), (False, 3)])
def test_with_other_epochs_the_rate_is_that_of_a_run_of_so_many(tmp_path, scheduler, ended, epochs):
    """From a run of 2 or 5 epochs that has ended or was stopped in its second."""
    path, before = tmp_path / "a", 2 if ended else 5
    if ended:
        train(path, scheduler=scheduler)
    else:
        with pytest.raises(Stopped):
            fasttrain.train(
                small(scheduler=scheduler, epochs=before), out=path, display=Interrupting(5)
            )
    train(tmp_path / "b", scheduler=scheduler, epochs=epochs)
    recipe = small(scheduler=scheduler, epochs=epochs)
    fasttrain.train(recipe, continued=path, override=True)
    found, expected = ([row[1] for row in end(tmp_path / name)["rows"]] for name in "ab")
    assert found[1 if not ended else 2 :] == expected[1 if not ended else 2 :]
    assert found[0] != expected[0], "the control: it began as another run"


def test_with_override_the_settings_of_optimizer_and_schedule_are_taken_too(half):
    """Not those that torch keeps in the states that a checkpoint holds."""
    asked = ["--momentum=0.5", "--weight-decay=0.1", "--patience=7", "--lr=0.011", "--epochs=3"]
    assert cli.main(["--resume", str(half), "--override", *asked]) == 0
    state = checkpoint.load(half / "checkpoints" / "last.pt")
    (group,) = state["step"]["optimizer"]["param_groups"]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.1)
    assert state["schedule"]["patience"] == 7
    assert end(half)["rows"][-1][1] == pytest.approx(0.011)


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "onecycle"])
def test_with_another_rate_the_curve_is_that_of_a_run_at_this_rate(tmp_path, scheduler):
    with pytest.raises(Stopped):
        fasttrain.train(
            small(scheduler=scheduler, lr=0.05), out=tmp_path / "a", display=Interrupting(5)
        )
    recipe = small(scheduler=scheduler, lr=0.02)
    fasttrain.train(recipe, out=tmp_path / "b")
    fasttrain.train(recipe, continued=tmp_path / "a", override=True)
    (first, last), (of_b, expected) = (
        [row[1] for row in end(tmp_path / name)["rows"]] for name in "ab"
    )
    assert first != of_b, "the control: it began at the other rate"
    assert last == pytest.approx(expected)


@pytest.mark.parametrize("word", ["--scheduler=cosine", "--warmup=0.5", "--optimizer=adamw"])
def test_another_scheduler_is_refused_even_with_override(word, half, capsys):
    before = (half / "checkpoints" / "last.pt").read_bytes()
    assert cli.main(["--resume", str(half), "--override", word]) == 2
    assert "Leave it out, or start a new run with --out." in capsys.readouterr().err
    assert (half / "checkpoints" / "last.pt").read_bytes() == before


def test_how_often_it_saves_may_change(half, done):
    assert cli.main(["--resume", str(half), "--save-every", "0.001"]) == 0
    assert same(end(half), end(done))


def test_the_clock_saves_within_an_epoch(tmp_path):
    """Killed after its first step, with no signal that could save: the step is not lost."""

    class Killed(BaseException):
        pass

    class Killing(Interrupting):
        def follow(self, plan):
            opened = super().follow(plan)
            opened.follower.step = self.killed
            return opened

        def killed(self, run):
            if (tmp_path / "a" / "checkpoints" / "last.pt").exists():
                raise Killed

    with pytest.raises(Killed):
        fasttrain.train(
            small(batch_size=1, save_every=0.001), out=tmp_path / "a", display=Killing(0)
        )
    epoch, done = checkpoint.load(tmp_path / "a" / "checkpoints" / "last.pt")["progress"]
    assert epoch == 0
    assert 0 < done <= 48


def test_a_named_checkpoint_that_is_damaged_is_exit_5_and_nothing_changes(half, capsys):
    path = half / "checkpoints" / "last.pt"
    flip(path)
    before = {file: kept for file, kept in everything(half).items() if Path(file).is_file()}
    assert cli.main(["--resume", str(path)]) == 5
    assert "damaged: its SHA-256 does not match" in capsys.readouterr().err
    after = everything(half)
    assert {file: after[file] for file in before if not file.endswith(".lock")} == {
        file: before[file] for file in before if not file.endswith(".lock")
    }


def test_a_damaged_newest_checkpoint_is_kept_aside_and_the_older_goes_on(half, done, capsys):
    last = half / "checkpoints" / "last.pt"
    assert (half / "checkpoints" / "previous.pt").exists()
    flip(last)
    damaged = last.read_bytes()
    assert cli.main(["--resume", str(half)]) == 0
    assert "Using previous.pt; the bad file is kept" in capsys.readouterr().out
    assert (half / "checkpoints" / "last.pt.damaged").read_bytes() == damaged
    assert same(end(half), end(done))


def test_when_no_checkpoint_is_good_nothing_starts_from_scratch(half, capsys):
    for name in ("last.pt", "previous.pt"):
        flip(half / "checkpoints" / name)
    assert cli.main(["--resume", str(half)]) == 5
    assert "no valid checkpoint" in capsys.readouterr().err
    names = sorted(os.listdir(half / "checkpoints"))
    assert names == ["best.pt", "last.pt", "previous.pt"]


def test_a_folder_whose_recipe_is_lost_is_not_taken_for_a_first_launch(half, capsys):
    (half / "recipe.json").unlink()
    arguments = ["--resume", "--out", str(half), "--dataset=synthetic"]
    assert cli.main(arguments) == 6
    assert "holds files but no run of fasttrain" in capsys.readouterr().err


def test_resume_and_out_that_name_two_runs_are_refused(half, done, capsys):
    assert cli.main(["--resume", str(half), "--out", str(done)]) == 2
    assert f"--out ({done}): --resume goes on in {half}" in capsys.readouterr().err
    last = half / "checkpoints" / "last.pt"
    assert cli.main(["--resume", str(last), "--out", str(half)]) == 0


@pytest.mark.parametrize("changes", [{"max_time": 0.001}, {"max_time": 0.001, "lr": "auto"}])
def test_a_time_limit_that_passes_before_the_first_epoch_ends_still_leaves_that_epoch(
    changes, tmp_path
):
    train(tmp_path / "a", **changes)
    assert len(end(tmp_path / "a")["rows"]) == 1


def test_a_time_limit_that_passed_while_it_was_stopped_waits_for_the_epochs_end(tmp_path):
    with pytest.raises(Stopped):
        fasttrain.train(small(), out=tmp_path / "a", display=Interrupting(2))
    train(tmp_path / "a", max_time=0.001)
    assert len(end(tmp_path / "a")["rows"]) == 1


MODES = [("off", "off"), ("on", "bf16"), ("off", "fp16"), ("on", "off"), ("off", "bf16")]
MODES += [("on", "fp16"), ("off", "off")]


@pytest.fixture
def eager_compile(monkeypatch):
    """torch.compile with its tracing but without half a minute of compiling."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend="eager", **options))


@pytest.mark.parametrize(("before", "after"), list(pairwise(MODES)))
def test_a_run_compiled_or_in_amp_is_resumed_by_any_other(before, after, tmp_path, eager_compile):
    path = tmp_path / "a"
    modes = [{"compile": compiled, "amp": amp} for compiled, amp in (before, after)]
    with pytest.raises(Stopped):
        fasttrain.train(small(**modes[0]), out=path, display=Interrupting(2))
    names = checkpoint.load(path / "checkpoints" / "last.pt")["step"]["model"].keys()
    assert names == tiny_runs.TinyNet().state_dict().keys(), "no _orig_mod., no module."
    train(path, **modes[1])
    assert len(end(path)["rows"]) == 2
    assert end(path)["best"][1].keys() == names
    compiled = torch.compile(tiny_runs.TinyNet()).state_dict()
    assert any(name.startswith("_orig_mod.") for name in compiled), "the control"
