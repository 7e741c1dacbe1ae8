"""A save is exact although the loop goes on, and what goes wrong in its thread is not lost."""

from __future__ import annotations

import copy
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_step

from fasttrain.engine.state import Epoch, Run
from fasttrain.errors import OutputError
from fasttrain.optim.schedule import Plateau
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import resume
from fasttrain.run.ledger import Ledger
from fasttrain.run.saving import Saver
from fasttrain.storage import host_copy
from tests.storage.test_checkpoint import same


class Slowly:
    """Stands for a run directory whose disk waits to be let go, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go, self.error, self.saved, self.rows = threading.Event(), error, [], []
        self.numbered: list[int] = []
        self.checkpoints = SimpleNamespace(
            save_last=self.save_last,
            save_best=self.save_best,
            save_numbered=lambda epoch, state, keep: self.numbered.append(epoch),
        )

    def save_last(self, state):
        assert self.go.wait(10)
        if self.error:
            raise self.error
        self.saved.append(copy.deepcopy(state))

    def save_best(self, state):
        assert self.go.wait(10)
        self.saved.append(copy.deepcopy(state))

    def append_epoch(self, row):
        self.rows.append(row["epoch"])


def parts(folder, *, every=1e9, numbered=None):
    """A Saver on a tiny network that has taken a step, its Run after one epoch, and the Step."""
    step = tiny_step()
    step(torch.randn(4, 3, 32, 32), torch.arange(4))
    plateau = Plateau(step.optimizer, patience=1, factor=0.1, threshold=0.0)
    run = Run(epoch=1, history=[Epoch(1, 0.1, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.0)])

    def capture(now):
        return resume.capture(now, step, plateau, Recipe())

    return Saver(folder, capture, Ledger(0.0), every=every, numbered=numbered), run, step


@pytest.mark.parametrize("copied", [True, False])
def test_what_is_saved_is_what_was_when_it_was_asked_for(copied, monkeypatch):
    """Without the copy, the control, the thread writes weights that have moved on."""
    if not copied:
        monkeypatch.setattr(host_copy, "on_host", lambda tree: tree)
    folder = Slowly()
    saver, run, step = parts(folder)
    before = copy.deepcopy(step.state_dict())
    with saver:
        saver.epoch(run)
        assert folder.saved == [], "the loop goes on while the disk is slow"
        step(torch.randn(4, 3, 32, 32), torch.arange(4))
        folder.go.set()
    last, best = folder.saved
    assert same(last["step"], before) == copied
    assert same(best["model"], before["model"]) == copied
    assert folder.rows == [1]


def finish_epoch(saver, run, accuracy):
    run.epoch += 1
    run.history.append(Epoch(run.epoch, 0.1, 1.0, 0.5, 1.0, accuracy, 1.0, 1.0, 0.0))
    saver.epoch(run)


def test_a_disk_slower_than_an_epoch_is_waited_for_by_the_best_and_the_last_alone():
    folder = Slowly()
    saver, run, _ = parts(folder)
    run.epoch, run.history = 0, []
    with saver:
        finish_epoch(saver, run, 0.5)
        for _ in range(3):  # nobody lets the disk go: these do not wait
            finish_epoch(saver, run, 0.4)
        assert folder.saved == []
        assert saver.best.epoch == 1
        threading.Timer(0.05, folder.go.set).start()
        finish_epoch(saver, run, 0.6)
        saver.wait()
        assert [state["progress"] for state in folder.saved] == [[1, 0]] * 2 + [[5, 0]] * 2
        assert folder.rows == [1, 2, 3, 4, 5], "the rows of epochs left out come with the next"
        folder.go.clear()
        finish_epoch(saver, run, 0.5)  # saved, for nothing is under way
        finish_epoch(saver, run, 0.5)
        threading.Timer(0.05, folder.go.set).start()
    assert [state["progress"] for state in folder.saved[4:]] == [[6, 0], [7, 0]]
    assert folder.rows == [1, 2, 3, 4, 5, 6, 7]


def test_a_numbered_epoch_waits_for_a_slow_disk_as_the_best_does():
    folder = Slowly()
    saver, run, _ = parts(folder, numbered=3)
    run.epoch, run.history = 0, []
    with saver:
        finish_epoch(saver, run, 0.5)
        finish_epoch(saver, run, 0.4)  # left out
        threading.Timer(0.05, folder.go.set).start()
        finish_epoch(saver, run, 0.4)
        saver.wait()
    assert [state["progress"] for state in folder.saved] == [[1, 0], [1, 0], [3, 0]]
    assert folder.numbered == [3]


def test_a_stop_after_an_epoch_that_was_left_out_saves_it():
    folder = Slowly()
    saver, run, _ = parts(folder)
    with saver:
        saver.epoch(run)
        finish_epoch(saver, run, 0.4)
        folder.go.set()
        saver.now(run)
        assert folder.saved[-1]["progress"] == [2, 0]
        assert folder.rows == [1, 2]


def test_only_one_save_is_under_way_and_the_best_epoch_waits_for_it():
    folder = Slowly()
    saver, run, _ = parts(folder, every=0.0)
    with saver:
        for run.step in (1, 2, 3):
            saver.step(run)
        threading.Timer(0.05, folder.go.set).start()
        run.step = 0
        saver.epoch(run)
    progress = [state["progress"] for state in folder.saved]
    assert progress == [[1, 1], [1, 0], [1, 0]], "steps 2 and 3 found the thread busy"


def test_nothing_is_saved_by_the_clock_before_its_time():
    folder = Slowly()
    folder.go.set()
    saver, run, _ = parts(folder, every=1e9)
    with saver:
        saver.step(run)
    assert folder.saved == []


def test_the_same_step_is_not_saved_twice():
    folder = Slowly()
    folder.go.set()
    saver, run, _ = parts(folder)
    with saver:
        saver.epoch(run)
        saver.now(run)
        assert len(folder.saved) == 2
        run.step = 1
        saver.now(run)
        assert folder.saved[-1]["progress"] == [1, 1]


def test_an_error_in_the_thread_comes_out_at_the_next_step():
    folder = Slowly(OutputError("no room"))
    folder.go.set()
    saver, run, _ = parts(folder)
    saver.epoch(run)
    until = time.monotonic() + 10
    while not saver._writing.done():
        assert time.monotonic() < until
    with pytest.raises(OutputError, match="no room"):
        saver.step(run)
    assert folder.rows == [], "no row for an epoch that is not saved"


@pytest.mark.parametrize("call", ["epoch", "now", "wait"])
def test_an_error_in_the_thread_comes_out_of_every_other_call(call):
    folder = Slowly(OutputError("no room"))
    folder.go.set()
    saver, run, _ = parts(folder)
    saver.epoch(run)
    with pytest.raises(OutputError, match="no room"):
        getattr(saver, call)(*[run] * (call != "wait"))


def test_no_thread_stays_between_saves():
    """One that stays slows the loop's parallel operators: see saving.py."""
    folder = Slowly()
    before = set(threading.enumerate())
    saver, run, _ = parts(folder)
    saver.epoch(run)
    (thread,) = set(threading.enumerate()) - before
    folder.go.set()
    thread.join(10)
    assert not thread.is_alive()
    assert folder.rows == [1]


def test_leaving_waits_and_raises_but_does_not_hide_what_ended_the_block():
    folder = Slowly(OutputError("no room"))
    before = set(threading.enumerate())
    saver, run, _ = parts(folder)
    threading.Timer(0.05, folder.go.set).start()
    with pytest.raises(OutputError, match="no room"), saver:
        saver.epoch(run)
    saver, run, _ = parts(folder)
    saver.epoch(run)
    with pytest.raises(ZeroDivisionError), saver:
        raise ZeroDivisionError
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("checkpoints")]
