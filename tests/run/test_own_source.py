"""A run of a network of one's own goes on with the source that it began with, unless told to."""

import json
import shutil
import sys

import pytest
from tiny_runs import end, same, small

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.errors import Stopped
from fasttrain.run import folders
from fasttrain.run.finish import explain_run
from fasttrain.storage import checkpoint
from tests.run.test_train import Interrupting

NET = """
from torch import nn

def make(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes))
"""
OTHER = NET.replace("ReLU", "Tanh")
KEY = "model_sha256"
FIELDS = {"model": "own_source_nets:make", "epochs": 2}


def write(folder, text):
    """Write the file, as it is for the next process."""
    (folder / "own_source_nets.py").write_text(text)
    sys.modules.pop("own_source_nets", None)


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(tmp_path, NET)
    yield tmp_path
    sys.modules.pop("own_source_nets", None)


@pytest.fixture
def half(folder):
    with pytest.raises(Stopped):
        fasttrain.train(small(**FIELDS), out=folder / "half", display=Interrupting(6))
    return folder / "half"


def state_of(run, name="last"):
    return checkpoint.load(run / "checkpoints" / f"{name}.pt")


def test_the_digest_stands_in_the_recipe_and_in_every_checkpoint(half):
    digest = json.loads((half / "recipe.json").read_text())[KEY]
    assert len(digest) == 64
    assert [state_of(half, name)[KEY] for name in ("last", "best")] == [digest] * 2
    fasttrain.train(small(), out=half.parent / "built-in")
    assert KEY not in folders.read_recipe(half.parent / "built-in")
    assert KEY not in state_of(half.parent / "built-in")


def test_the_same_source_goes_on_bitwise(half):
    fasttrain.train(small(**FIELDS), out=half.parent / "whole")
    write(half.parent, NET)
    assert cli.main(["--resume", str(half)]) == 0
    assert same(end(half), end(half.parent / "whole"))


def test_another_source_is_exit_2_and_changes_nothing(half, capsys):
    before = state_of(half)
    write(half.parent, OTHER)
    assert cli.main(["--resume", str(half)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fasttrain: error: --model (own_source_nets:make): the source of ")
    assert "own_source_nets has changed" in said
    assert "--override" in said
    assert said.count("\n") == 1
    assert state_of(half)["progress"] == before["progress"]
    write(half.parent, NET)
    assert cli.main(["--resume", str(half)]) == 0, "restored"


def test_with_override_the_new_source_is_taken_said_and_written_down(half, capsys):
    old = state_of(half)[KEY]
    write(half.parent, OTHER)
    assert cli.main(["--resume", str(half), "--override"]) == 0
    assert "the source of own_source_nets:make has changed: the run goes on" in (
        capsys.readouterr().out
    )
    new = folders.read_recipe(half)[KEY]
    assert new != old
    assert state_of(half)[KEY] == new
    assert cli.main(["--resume", str(half)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_new_source_is_in_a_checkpoint_before_the_run_goes_on(half):
    """Or a run killed at once could be resumed neither with the old source nor with the new."""

    class Killed(BaseException):
        pass

    class Killing(Interrupting):
        def follow(self, plan):
            opened = super().follow(plan)
            opened.follower.step = self.killed
            return opened

        def killed(self, run):
            raise Killed

    write(half.parent, OTHER)
    with pytest.raises(Killed):
        fasttrain.train(small(**FIELDS), continued=half, override=True, display=Killing(0))
    assert state_of(half)[KEY] == folders.read_recipe(half)[KEY]
    assert cli.main(["--resume", str(half)]) == 0


def test_a_run_without_a_digest_is_resumed_and_gets_one(half):
    for name in ("last", "best", "previous"):
        state = state_of(half, name)
        digest = state.pop(KEY)
        checkpoint.save(half / "checkpoints" / f"{name}.pt", state)
    recipe = folders.read_recipe(half)
    del recipe[KEY]
    (half / "recipe.json").write_text(json.dumps(recipe))
    assert cli.main(["--resume", str(half)]) == 0
    assert state_of(half)[KEY] == folders.read_recipe(half)[KEY] == digest


def test_explaining_a_run_says_that_the_source_has_changed(half, monkeypatch, capsys):
    from fasttrain.run import finish

    assert cli.main(["--resume", str(half)]) == 0
    monkeypatch.setattr(finish, "explain_run", explain_run)
    monkeypatch.setattr(finish.explain, "explain", lambda *args, **options: None)
    monkeypatch.setattr(finish, "draw_report", lambda *args, **options: None)
    words = ["explain", str(half), "--device", "cpu"]
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().out == ""
    write(half.parent, OTHER)
    assert cli.main(words) == 0
    said = "the source of own_source_nets:make has changed since this run was trained\n"
    assert capsys.readouterr().out == said


def test_compare_lists_runs_of_two_sources_as_different(half, capsys):
    other = half.parent / "other"
    shutil.copytree(half, other)
    recipe = folders.read_recipe(other)
    (other / "recipe.json").write_text(json.dumps({**recipe, KEY: "0" * 64}))
    page = str(half.parent / "c.html")
    assert cli.main(["compare", str(half), str(other), "--out", page]) == 0
    assert KEY in capsys.readouterr().out
