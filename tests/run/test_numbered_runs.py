"""Runs that keep numbered checkpoints, and go on from any of them as if nothing had been."""

from __future__ import annotations

import os
import shutil

import pytest
import tiny_runs
from faults import CRASHES, FOR_GOOD
from tiny_runs import end, same, small, train

import fasttrain
from fasttrain.errors import UsageError
from fasttrain.recipe.recipe import Recipe
from fasttrain.run.rundir import RunDir
from fasttrain.storage.checkpoint import Checkpoints
from tests.run.test_whole_run import broken_everywhere

pytestmark = pytest.mark.usefixtures("tiny")
CHANGES = {"epochs": 4, "checkpoint_every": 1, "keep": 3}


def numbered(path) -> list[str]:
    return sorted(name for name in os.listdir(path / "checkpoints") if name.startswith("epoch"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run with the newest three of four numbered checkpoints."""
    with tiny_runs.shrunk():
        path = tmp_path_factory.mktemp("runs") / "whole"
        train(path, **CHANGES)
        return path


def test_every_so_many_epochs_one_stays_and_the_training_is_the_same(whole, tmp_path):
    train(tmp_path / "a", epochs=4, checkpoint_every=3)
    train(tmp_path / "b", epochs=4)
    assert numbered(whole) == ["epoch-2.pt", "epoch-3.pt", "epoch-4.pt"]
    assert numbered(tmp_path / "a") == ["epoch-3.pt"]
    assert numbered(tmp_path / "b") == []
    assert same(end(tmp_path / "a"), end(tmp_path / "b"))
    assert same(end(tmp_path / "a"), end(whole))


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_run_goes_on_bitwise_from_any_of_them_and_later_ones_are_set_aside(
    epoch, whole, tmp_path
):
    path = tmp_path / "a"
    shutil.copytree(whole, path)
    before = end(path)
    (path / "checkpoints" / "mine.pt").write_text("mine")
    fasttrain.train(small(**CHANGES), continued=path / "checkpoints" / f"epoch-{epoch}.pt")
    assert same(end(path), before)
    aside = [f"epoch-{later}.pt.abandoned" for later in range(epoch + 1, 5)]
    assert numbered(path) == sorted(["epoch-2.pt", "epoch-3.pt", "epoch-4.pt", *aside])


def test_one_that_a_kill_left_out_is_made_from_last(tmp_path, monkeypatch):
    real = Checkpoints.save_numbered

    def killed(self, epoch, state, *, keep=None):
        if epoch == 2:
            raise RuntimeError("killed")
        real(self, epoch, state, keep=keep)

    with monkeypatch.context() as patches:
        patches.setattr(Checkpoints, "save_numbered", killed)
        with pytest.raises(RuntimeError):
            train(tmp_path / "a", **CHANGES)
    assert numbered(tmp_path / "a") == ["epoch-1.pt"]
    train(tmp_path / "a", **CHANGES | {"keep": None})
    assert numbered(tmp_path / "a") == [f"epoch-{n}.pt" for n in range(1, 5)]


def test_keep_alone_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"--keep \(2\): goes with --checkpoint-every"):
        train(tmp_path / "a", keep=2)
    assert not (tmp_path / "a").exists()


def test_a_replaced_run_loses_its_numbered_checkpoints_and_nobody_elses_file(whole, tmp_path):
    path = tmp_path / "a"
    shutil.copytree(whole, path)
    mine = ["epoch-mine.pt", "epoch-1x.pt", "my-epoch-1.pt"]
    for name in [*mine, "epoch-1.pt.abandoned"]:
        (path / "checkpoints" / name).write_text("x")
    with RunDir.create(path, overwrite=True) as run:
        run.begin(Recipe().as_dict(), {})
    assert sorted(os.listdir(path / "checkpoints")) == sorted(mine)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [*CRASHES, "ENOSPC", FOR_GOOD])
def test_a_run_broken_at_any_file_operation_ends_with_the_same_checkpoints(
    kind, whole, tmp_path, monkeypatch, record_property
):
    ends, points = broken_everywhere(kind, tmp_path / "a", monkeypatch, **CHANGES)
    assert all(same(found, end(whole)) for found in ends)
    assert numbered(tmp_path / "a") == numbered(whole)
    record_property("crash points of a run with numbered checkpoints", points)
