"""However a save ends, the previous or the new checkpoint is found, complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from faults import CRASHES, ERRORS, FOR_GOOD, every_fault

from fasttrain.errors import CheckpointError
from fasttrain.storage import atomic
from fasttrain.storage.checkpoint import Checkpoints, load
from tests.storage.test_checkpoint import same, state


def lost(before: int, kind: str, folder, monkeypatch) -> tuple[list[str], int]:
    """Break save number `before` + 1 at its n-th operation; return what `latest` gets wrong."""
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
    assert points == 8  # open, write, fsync, link, two replaces, open and fsync of the folder


@pytest.mark.parametrize("kind", ["crash", "crash in a write", "ENOSPC"])
def test_saving_without_the_protocol_fails_the_same_enumeration(kind, tmp_path, monkeypatch):
    def in_place(path, data, *, keep):
        with atomic.reported(path):
            if path.exists():
                atomic._replace(path, keep)
                atomic._unlink(keep)
            handle = atomic._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            atomic._write(handle, data)
            os.close(handle)

    monkeypatch.setattr(atomic, "write_atomically", in_place)
    assert lost(2, kind, tmp_path / "checkpoints", monkeypatch)[0]


READER = """
import sys
from pathlib import Path
from fasttrain.storage.checkpoint import load
from fasttrain.errors import CheckpointError
path, read, newest, bad = Path(sys.argv[1]), 0, 0, ""
while newest < 10**9 and not bad:
    try:
        state = load(path)
    except CheckpointError as error:
        bad = str(error)
        break
    epoch = state["progress"][0]
    if epoch < newest or not bool((state["x"] == epoch).all()):
        bad = f"epoch {epoch} after {newest}"
    newest, read = epoch, read + 1
    if read in (1, int(sys.argv[2])):
        print("read", flush=True)
print(read, bad)
"""


def read_during(save, folder, *, reads: int) -> tuple[int, str]:
    """Save last.pt while another process loads it so many times; return its loads and error."""
    save(contents(1))
    command = [sys.executable, "-c", READER, str(folder / "last.pt"), str(reads)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "read\n"
    with ThreadPoolExecutor(1) as pool:
        line, epoch = pool.submit(reader.stdout.readline), 1
        while not line.done() and epoch < 3000:
            epoch += 1
            save(contents(epoch))
        save(contents(10**9))
    said = (line.result() + reader.stdout.read()).splitlines()
    assert reader.wait(60) == 0
    read, _, bad = said[-1].partition(" ")
    return int(read), bad


def contents(epoch: int) -> dict:
    return {"progress": [epoch, 0], "x": torch.full((65536,), epoch)}


@pytest.mark.parametrize("links", [True, False])
def test_who_reads_while_another_saves_always_finds_a_whole_checkpoint(
    links, tmp_path, monkeypatch
):
    """Without links, the control, last.pt is missing now and then."""
    real = atomic._replace
    monkeypatch.setattr(atomic, "_replace", lambda *names: (real(*names), time.sleep(0.005)))
    if not links:
        monkeypatch.setattr(atomic, "_link", no_link)
    checkpoints = Checkpoints(tmp_path)
    reads = 12 if links else 10**6  # the control goes on until it is missing
    read, bad = read_during(checkpoints.save_last, tmp_path, reads=reads)
    assert (read > reads and not bad) if links else "No such file" in bad, (read, bad)
    assert set(os.listdir(tmp_path)) == {"last.pt", "previous.pt"}


def no_link(*args):
    raise OSError(1, "not on this file system")


def test_after_a_save_that_broke_off_between_its_renames_the_next_leaves_nothing(tmp_path):
    """last.pt and previous.pt are then one file, and renaming one to the other does nothing."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(state(1))
    os.link(tmp_path / "last.pt", tmp_path / "previous.pt")
    checkpoints.save_last(state(2))
    assert set(os.listdir(tmp_path)) == {"last.pt", "previous.pt"}
    assert [load(tmp_path / f"{name}.pt")["progress"][0] for name in ("last", "previous")] == [2, 1]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fasttrain.storage.checkpoint import Checkpoints
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
    os.close(into)
    with os.fdopen(out) as pipe:
        reported = [saves, *(int(pipe.readline()) for _ in range(chance.randrange(4)))]
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it was alive"
        reported += [int(line) for line in pipe]
    state, notes = Checkpoints(folder).latest()
    saves = state["progress"][0] if state else 0
    assert not notes and reported[-1] <= saves <= reported[-1] + 1, (reported, saves, notes)
    assert not state or bool((state["x"] == saves).all())
print(saves)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL")
def test_thirty_kills_at_random_lose_no_save_that_had_returned(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
