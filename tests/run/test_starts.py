"""A start that fails before it trained leaves nothing in the way, and costs nobody a run."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import tiny_runs
from processes import Child, flags, one_line
from tiny_runs import SMALL, end, same, small, train

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.engine import step
from fasttrain.errors import (
    DataError,
    Diverged,
    EnvironmentProblem,
    FasttrainError,
    OutOfMemory,
    OutputError,
    Stopped,
    UsageError,
)
from fasttrain.run import folders
from fasttrain.run import train as course
from fasttrain.run.rundir import RunDir
from tests.run.test_resume_rules import everything
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")
WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


class Fault:
    """Makes the next run fail in its data, its parts, its range test or its n-th step."""

    def __init__(self, monkeypatch, where: str, error: BaseException) -> None:
        home, name = {
            "data": (course, "splits"),
            "build": (course, "tuned"),
            "range test": (course, "range_test"),
            "step": (step.Step, "__call__"),
        }[where]

        def fail(*args, **options):
            raise error

        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(home, name, fail)


FAULTS = {
    "exit 2 from build": ("build", UsageError("--x (1): no. Do y.")),
    "exit 3 from build": ("build", EnvironmentProblem("--x (1): no. Do y.")),
    "exit 4 from data": ("data", DataError("--x (1): no. Do y.")),
    "exit 6 from the range test": ("range test", OutputError("--x (1): no. Do y.")),
    "exit 7 in the first epoch": ("step", Diverged("--x (1): no. Do y.")),
    "exit 7 in the range test": ("range test", Diverged("--x (1): no. Do y.")),
    "exit 8 in the first epoch": ("step", OutOfMemory("--x (1): no. Do y.")),
    "a bug of ours": ("build", ZeroDivisionError("division by zero")),
}


@pytest.fixture(params=FAULTS)
def fault(request, monkeypatch):
    """What makes the next runs fail, with its exit code; `.patches.undo()` mends it."""
    where, error = FAULTS[request.param]
    made = Fault(monkeypatch, where, error)
    made.code = getattr(error, "code", None)
    yield made
    made.patches.undo()


def fails(fault, words) -> None:
    if fault.code is None:
        with pytest.raises(ZeroDivisionError):
            cli.main(words)
    else:
        assert cli.main(words) == fault.code


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_the_same_folder_can_be_taken_after_any_failed_start(fault, there, tmp_path, capsys):
    path = tmp_path / "deep" / "a"
    if there == "an empty folder":
        path.mkdir(parents=True)
    words = [*WORDS, "--lr=auto", "--epochs=1", "--out", str(path)]
    fails(fault, words)
    assert os.listdir(tmp_path) == ([] if there == "nothing" else ["deep"])
    assert not path.exists() or os.listdir(path) == []
    fault.patches.undo()
    assert cli.main(words) == 0
    assert len(end(path)["rows"]) == 1


def test_a_failed_start_is_not_what_a_bare_resume_takes(fault, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    patches, fault_of_ours = fault.patches, fault
    patches.undo()
    with pytest.raises(Stopped):
        fasttrain.train(small(lr="auto"), out=tmp_path / "runs" / "a", display=Interrupting(6))
    again = Fault(monkeypatch, *where_of(fault_of_ours))
    again.code = fault.code
    fails(again, [*WORDS, "--lr=auto"])
    assert os.listdir("runs") == ["a"]
    again.patches.undo()
    assert cli.main(["--resume"]) == 0
    assert f"resuming {Path('runs/a')} after epoch 1" in capsys.readouterr().out
    assert len(end(tmp_path / "runs" / "a")["rows"]) == 2


def where_of(fault) -> tuple[str, BaseException]:
    return next(each for each in FAULTS.values() if getattr(each[1], "code", None) == fault.code)


def test_the_real_mistakes_of_a_command_line_leave_nothing(tmp_path, capsys):
    path = tmp_path / "c"
    for words, code in (
        (["--data-dir", str(tmp_path / "nowhere")], 4),
        ([*WORDS, "--batch-size=49"], 2),
        ([*WORDS, "--optimizer=apex"], 3),
        ([*WORDS, "--lr=1000", "--epochs=30", "--amp=off"], 7),
    ):
        assert cli.main([*words, "--out", str(path)]) == code
        one_line(capsys.readouterr().err)
        assert os.listdir(tmp_path) == [] or folders.is_trained(path), words
    if path.exists():
        assert cli.main([*WORDS, "--overwrite", "--out", str(path)]) == 0
    else:
        assert cli.main([*WORDS, "--out", str(path)]) == 0


@pytest.mark.parametrize("how", ["resume", "resume with other flags", "overwrite"])
def test_a_run_whose_resumption_or_replacement_fails_is_as_it_was(how, fault, tmp_path, capsys):
    path = tmp_path / "a"
    where, error = where_of(fault)
    fault.patches.undo()
    if where == "range test" or (where == "step" and how == "overwrite"):
        where = "build"  # a resumption has no range test, and a replacement has begun by then
    train(path) if how == "overwrite" else stopped(path)
    before = everything(path)
    again = Fault(None, where, error)
    words = {
        "resume": ["--resume", str(path)],
        "resume with other flags": ["--resume", str(path), "--override", "--momentum=0.5"],
        "overwrite": [*WORDS, "--momentum=0.5", "--overwrite", "--out", str(path)],
    }[how]
    again.code = fault.code
    fails(again, words)
    again.patches.undo()
    after = everything(path)
    if where != "step":
        kept = [file for file in before if Path(file).is_file() and Path(file).name != ".lock"]
        assert {file: after.get(file) for file in kept} == {file: before[file] for file in kept}
    assert cli.main(["--resume", str(path)]) == 0
    assert len(end(path)["rows"]) == 2


def stopped(path) -> None:
    with pytest.raises(Stopped):
        fasttrain.train(small(), out=path, display=Interrupting(6))


@pytest.mark.parametrize("phase", ["data", "lr finder", "epoch"])
def test_one_killed_before_its_first_checkpoint_is_in_nobodys_way(phase, tmp_path):
    path, ended = tmp_path / "a", []
    given = flags(path, lr="auto")
    given.remove("--resume")
    for _ in range(2):  # the second time over what the first has left
        child = Child(tmp_path / "log", given, phase=phase).reached()
        assert child.send(signal.SIGKILL).ended().status == -signal.SIGKILL
        assert (path / "recipe.json").exists()
        assert not folders.is_trained(path)
    ended.append(Child(tmp_path / "log", given).ended())
    train(tmp_path / "whole", lr="auto")
    child = Child(tmp_path / "log", [*given[:-1], str(tmp_path / "b")], phase=phase).reached()
    child.send(signal.SIGKILL).ended()
    ended.append(Child(tmp_path / "log", ["--resume", str(tmp_path / "b")]).ended())
    assert [(each.status, each.err) for each in ended] == [(0, ""), (0, "")]
    assert same(end(path), end(tmp_path / "whole"))
    assert same(end(tmp_path / "b"), end(tmp_path / "whole"))


def test_newest_prefers_what_has_trained_to_what_was_started_later(tmp_path):
    stopped(tmp_path / "a")
    for name in ("b", "c"):
        with suppress(KeyboardInterrupt), RunDir.create(tmp_path / name) as run:
            run.announce({"recipe": "resnet18", "epochs": 50})
            raise KeyboardInterrupt  # as a kill: nothing is cleaned up
    assert folders.newest(tmp_path) == tmp_path / "a"
    (tmp_path / "a" / "recipe.json").unlink()
    assert folders.newest(tmp_path) == tmp_path / "c", "better than none"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_safe_beside_a_start_that_was_killed(overwrite, tmp_path):
    path = tmp_path / "a"
    with suppress(KeyboardInterrupt), RunDir.create(path) as run:
        run.announce({"recipe": "resnet18", "epochs": 50})
        raise KeyboardInterrupt
    (path / "figures").rmdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loss.png").write_text("mine")
    (path / "figures").symlink_to(tmp_path / "mine")
    (path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt|is a link"):
        RunDir.create(path, overwrite=overwrite)
    assert (
        (path / "notes.txt").read_text() == (tmp_path / "mine" / "loss.png").read_text() == "mine"
    )


def test_a_run_inside_another_run_is_refused(tmp_path, capsys):
    train(tmp_path / "a")
    before = everything(tmp_path / "a")
    for words in (["--out"], ["--runs=2", "--out"]):
        assert cli.main([*WORDS, *words, str(tmp_path / "a" / "b")]) == 6
        assert "is inside the run" in one_line(capsys.readouterr().err)
    assert everything(tmp_path / "a") == before


def test_a_start_in_the_folder_of_a_live_run_names_its_pid_and_not_its_epochs(tmp_path, capsys):
    stopped(tmp_path / "a")
    with RunDir.resume(tmp_path / "a"):
        for words in ([], ["--overwrite"], ["--resume"], ["--runs=2"]):
            assert cli.main([*WORDS, *words, "--out", str(tmp_path / "a")]) == 6
            said = one_line(capsys.readouterr().err)
            assert f"is in use by pid {os.getpid()}" in said, words


@pytest.mark.parametrize("words", [[], ["--out", "a"], ["--runs=2"], ["--overwrite", "--out=a"]])
def test_override_without_resume_is_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*WORDS, *words, "--override"]) == 2
    assert "--override: goes with --resume" in one_line(capsys.readouterr().err)
    assert os.listdir(tmp_path) == []


def test_override_without_a_run_to_resume_is_refused_in_python_too(tmp_path):
    start = partial(fasttrain.train, small(), out=tmp_path / "a")
    with pytest.raises(UsageError, match="--override"):
        start(override=True)
    assert os.listdir(tmp_path) == []
    assert cli.main([*WORDS, "--resume", "--override", "--out", str(tmp_path / "a")]) == 0


def test_from_python_a_failed_start_leaves_nothing_too(tmp_path):
    for changes in ({"batch_size": 49}, {"optimizer": "apex"}):
        with pytest.raises(FasttrainError):
            fasttrain.train(small(**changes), out=tmp_path / "a")
        assert os.listdir(tmp_path) == []
    tiny_runs.train(tmp_path / "a")
