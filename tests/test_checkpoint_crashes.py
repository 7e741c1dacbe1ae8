"""However a save ends, the checkpoint before it or the one it wrote is found, whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from faults import CRASHES, ERRORS, FOR_GOOD, every_fault
from test_checkpoint import same, state

from fasttrain import files
from fasttrain.checkpoint import Checkpoints
from fasttrain.errors import CheckpointError


def lost(before: int, kind: str, folder, monkeypatch) -> tuple[list[str], int]:
    """What `latest` gets wrong after save number `before` + 1 broke at its n-th operation."""
    wrong = []
    for faults in every_fault(monkeypatch, kind):
        shutil.rmtree(folder, ignore_errors=True)
        checkpoints = Checkpoints(folder)
        for epoch in range(1, before + 1):
            checkpoints.save_last(state(epoch))
        outcome = faults.run(lambda: checkpoints.save_last(state(before + 1)))  # noqa: B023
        here = f"{kind} at {faults.at} of {faults.calls}: {outcome}"
        try:
            found, notes = Checkpoints(folder).latest()
        except CheckpointError as error:
            wrong.append(f"{here}, {error}")
            continue
        epoch = found["progress"][0] if found else 0
        whole = same(found, {**state(epoch), "format": 1}) if epoch else True
        good = epoch == before + 1 or (epoch == before and outcome != "done")
        wrong += [] if whole and good and not notes else [f"{here}, epoch {epoch}, {notes}"]
        Checkpoints(folder).save_last(state(9))
        assert same(Checkpoints(folder).latest()[0], {**state(9), "format": 1})
        assert set(os.listdir(folder)) <= {"last.pt", "previous.pt"}, "leftovers are cleaned"
    return wrong, faults.at - 1


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("kind", [*CRASHES, *ERRORS, FOR_GOOD])
def test_a_save_that_breaks_anywhere_leaves_the_old_or_the_new(kind, before, tmp_path, monkeypatch):
    wrong, points = lost(before, kind, tmp_path / "checkpoints", monkeypatch)
    assert wrong == []
    assert points == 7  # open, write, fsync, two replaces, open and fsync of the folder


@pytest.mark.parametrize("kind", ["crash", "crash in a write", "ENOSPC"])
def test_saving_without_the_protocol_fails_the_same_enumeration(kind, tmp_path, monkeypatch):
    def in_place(path, data, *, keep):
        with files.reported(path):
            if path.exists():
                files._replace(path, keep)
                files._unlink(keep)
            handle = files._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            files._write(handle, data)
            os.close(handle)

    monkeypatch.setattr(files, "write_atomically", in_place)
    assert lost(2, kind, tmp_path / "checkpoints", monkeypatch)[0]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fasttrain.checkpoint import Checkpoints
torch.set_num_threads(1)
folder, chance, saves = Path(sys.argv[1]), random.Random(0), 0
for trial in range(30):
    out, into = os.pipe()
    child = os.fork()
    if not child:
        checkpoints, epoch = Checkpoints(folder), saves
        while True:
            epoch += 1
            checkpoints.save_last({"progress": [epoch, 0], "x": torch.full((4096,), epoch)})
            os.write(into, b"%d\\n" % epoch)
    time.sleep(chance.uniform(0.005, 0.04))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it was alive"
    os.close(into)
    with os.fdopen(out) as pipe:
        told = [int(line) for line in pipe] or [saves]
    state, notes = Checkpoints(folder).latest()
    saves = state["progress"][0] if state else 0
    assert not notes and told[-1] <= saves <= told[-1] + 1, (told, saves, notes)
    assert not state or bool((state["x"] == saves).all())
print(saves)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL")
def test_thirty_kills_at_random_lose_no_save_that_had_returned(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
