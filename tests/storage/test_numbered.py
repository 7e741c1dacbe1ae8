"""Numbered checkpoints: the newest stay, and none goes before its successor is on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from faults import CRASHES, ERRORS, FOR_GOOD, every_fault

from fasttrain.errors import CheckpointError
from fasttrain.storage import atomic
from fasttrain.storage.checkpoint import Checkpoints, load
from tests.storage.test_checkpoint import flip, same, state


def save(checkpoints: Checkpoints, epoch: int, *, keep: int | None = None) -> None:
    checkpoints.save_last(state(epoch))
    checkpoints.save_numbered(epoch, state(epoch), keep=keep)


def epochs(folder: Path) -> dict[int, int]:
    """Of every numbered checkpoint the number in its name and the epoch that it holds."""
    names = [name for name in os.listdir(folder) if name.startswith("epoch-")]
    return {int(n[6:-3]): load(folder / n)["progress"][0] for n in names}


@pytest.mark.parametrize("links", [True, False])
def test_the_newest_stay_and_hold_what_last_held_then(links, tmp_path, monkeypatch):
    def no_link(*names: object) -> None:
        raise OSError(1, "not on this file system")

    with monkeypatch.context() as patches:
        if not links:
            patches.setattr(atomic, "_link", no_link)
        checkpoints = Checkpoints(tmp_path)
        for epoch in range(8, 12):
            save(checkpoints, epoch, keep=3)
    assert epochs(tmp_path) == {9: 9, 10: 10, 11: 11}
    assert same(load(tmp_path / "epoch-10.pt"), {**state(10), "format": 1})
    assert (tmp_path / "epoch-11.pt").samefile(tmp_path / "last.pt") == links
    save(checkpoints, 12)
    assert sorted(epochs(tmp_path)) == [9, 10, 11, 12]


@pytest.mark.parametrize("kind", [*CRASHES, *ERRORS, FOR_GOOD])
def test_however_it_breaks_last_is_whole_and_a_numbered_one_is_there(kind, tmp_path, monkeypatch):
    folder, removed = tmp_path / "checkpoints", 0
    for faults in every_fault(monkeypatch, kind):
        shutil.rmtree(folder, ignore_errors=True)
        checkpoints = Checkpoints(folder)
        save(checkpoints, 1)
        faults.run(lambda: save(checkpoints, 2, keep=1))  # noqa: B023
        assert load(folder / "last.pt")["progress"][0] in (1, 2)
        there = epochs(folder)  # each of them loads
        assert there in ({1: 1}, {1: 1, 2: 2}, {2: 2})
        removed += 1 not in there
        save(Checkpoints(folder), 3, keep=1)
        assert epochs(folder) == {3: 3}
        assert set(os.listdir(folder)) == {"last.pt", "previous.pt", "epoch-3.pt"}
    assert removed
    assert faults.at - 1 == 13  # 8 of last.pt; a link, its name, two of the folder, a removal


def test_removing_the_old_one_first_is_seen(tmp_path, monkeypatch):
    """The control of the test above."""
    for faults in every_fault(monkeypatch, "crash"):
        folder = tmp_path / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        checkpoints = Checkpoints(folder)
        save(checkpoints, 1)

        def other_way_round() -> None:
            atomic.remove(folder / "epoch-1.pt")  # noqa: B023
            save(checkpoints, 2, keep=1)  # noqa: B023

        faults.run(other_way_round)
        if not epochs(folder):
            return
    pytest.fail("no crash left the folder without a numbered checkpoint")


def test_only_what_is_named_as_ours_counts(tmp_path):
    for name in ("epoch-mine.pt", "epoch-0.pt", "epoch-01.pt", "epoch-1.pt.abandoned"):
        (tmp_path / name).write_text("mine")
    for epoch in (1, 2):
        save(Checkpoints(tmp_path), epoch, keep=1)
    assert set(os.listdir(tmp_path)) == {
        *("epoch-mine.pt", "epoch-0.pt", "epoch-01.pt", "epoch-1.pt.abandoned"),
        *("last.pt", "previous.pt", "epoch-2.pt"),
    }


def test_where_last_and_previous_are_lost_a_run_goes_on_from_the_newest_numbered_one(tmp_path):
    for epoch in (9, 10, 11):
        save(Checkpoints(tmp_path), epoch)
    flip(tmp_path / "last.pt", 1000)  # epoch-11.pt is the same file
    (tmp_path / "previous.pt").unlink()
    found, notes = Checkpoints(tmp_path).latest()
    assert found["progress"][0] == 10
    assert len(notes) == 2
    assert all(note.endswith("Using epoch-10.pt; the bad file is kept.") for note in notes)
    for epoch in (9, 10):
        flip(tmp_path / f"epoch-{epoch}.pt", 1000)
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        Checkpoints(tmp_path).latest()
