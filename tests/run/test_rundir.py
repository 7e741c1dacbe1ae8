"""A run directory is one process's, is taken only when it may be, and loses only its own files."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from fasttrain.errors import OutputError
from fasttrain.report.files import write_whole
from fasttrain.run import checks, lock
from fasttrain.run.folders import read_epochs
from fasttrain.run.rundir import RunDir
from fasttrain.storage import atomic

RECIPE = {"recipe": "resnet18", "epochs": 50}


def row(epoch: int) -> dict:
    return {"epoch": epoch, "lr": 0.1, "train_loss": 1 / epoch}


def a_run(path: Path, *, epochs: int = 12) -> Path:
    """A closed run directory with every file of the contract."""
    with RunDir.create(path) as run:
        run.write_json("recipe.json", RECIPE)
        run.write_json("environment.json", {"torch": "2.13"})
        for epoch in range(1, epochs + 1):
            run.append_epoch(row(epoch))
        for number in range(3):
            run.checkpoints.save_last({"progress": [number, 0]})
        run.checkpoints.save_best({"progress": [2, 0]})
        atomic.write_atomically(run.figures / "curves.png", b"png")
        atomic.write_atomically(run.tensorboard / "events.out.tfevents.1.host.2.0", b"events")
        atomic.write_atomically(run.tensorboard / "host_1.123.pt.trace.json.gz", b"trace")
        atomic.write_atomically(run.path / "report.html", b"html")
        (run.checkpoints.folder / "last.pt.damaged").touch()
        (run.path / "analysis.npz").touch()
    return path


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below `path`, when it was changed, and its content."""
    found = (file for file in path.rglob("*") if file.is_file())
    return {str(f.relative_to(path)): (f.stat().st_mtime_ns, f.read_bytes()) for f in found}


def test_a_new_run_gets_its_folders_with_missing_parents(tmp_path):
    with RunDir.create(tmp_path / "runs" / "sp ace \u00e9" / "a") as run:
        run.write_json("recipe.json", RECIPE)
        assert json.loads((run.path / "recipe.json").read_text()) == RECIPE
        assert run.figures == run.path / "figures"
        assert sorted(os.listdir(run.path)) == sorted(
            [".lock", "checkpoints", "figures", "recipe.json", "tensorboard"]
        )
        with pytest.raises(ValueError, match="none of"):
            run.write_json("sumary.json", {})


def test_a_folder_that_holds_a_run_is_refused_and_nothing_in_it_changes(tmp_path):
    path = a_run(tmp_path / "a")
    before = snapshot(path)
    message = (
        f"{path} already holds a run (epoch 12 of 50). "
        "Use --resume to continue it or --overwrite to replace it."
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        RunDir.create(path)
    assert snapshot(path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_anything_else_is_refused_even_for_overwriting(overwrite, tmp_path):
    for name in ("notes.txt", "summary.json", "figures/holiday.png", "recipe.json"):
        path = tmp_path / name.replace("/", "-") / "mine"
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text('{"flour": 500}')
        before = snapshot(path)
        with pytest.raises(OutputError, match=r"holds files but no run .*Choose another --out"):
            RunDir.create(path, overwrite=overwrite)
        assert snapshot(path) == before


def test_overwriting_removes_every_file_of_the_old_run_and_no_other(tmp_path):
    path = a_run(tmp_path / "a")
    foreign = ["notes.txt", "figures/notes.txt", "checkpoints/mine.pt", "tensorboard/x/y.json"]
    for name in foreign:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("mine")
    outside = tmp_path / "outside.json"
    outside.write_text("not in the run")
    (path / "summary.json").symlink_to(outside)
    before = set(snapshot(path))
    with RunDir.create(path, overwrite=True) as run:
        assert set(snapshot(path)) == before, "until its successor begins it is as it was"
        run.begin(RECIPE, {})
        assert set(snapshot(path)) == {*foreign, ".lock", "recipe.json", "environment.json"}
        assert read_epochs(path) == ([], None)
        assert run.checkpoints.latest() == (None, [])
    assert outside.read_text() == "not in the run"


def test_overwriting_never_follows_a_link_out_of_the_folder(tmp_path):
    path, outside = a_run(tmp_path / "a"), tmp_path / "outside"
    (path / "figures" / "curves.png").unlink()
    (path / "figures").rmdir()
    outside.mkdir()
    (outside / "holiday.png").write_text("mine")
    (path / "figures").symlink_to(outside)
    before = snapshot(path)
    with pytest.raises(OutputError, match="figures is a link"):
        RunDir.create(path, overwrite=True)
    after = snapshot(path)
    assert {name: after[name] for name in after if name != ".lock"} == {
        name: before[name] for name in before if name != ".lock"
    }
    assert (outside / "holiday.png").exists()


def test_what_a_crash_right_after_the_start_left_is_no_obstacle(tmp_path):
    RunDir.create(tmp_path / "a").close()
    (tmp_path / "a" / ".recipe.json.99.0123abcd.tmp").touch()
    with RunDir.create(tmp_path / "a") as run:
        assert set(snapshot(run.path)) == {".lock"}


def test_a_run_that_came_and_went_before_the_lock_is_seen(tmp_path, monkeypatch):
    took_the_lock = lock.acquire

    def slowly(path):
        monkeypatch.undo()
        a_run(path, epochs=1)
        return took_the_lock(path)

    monkeypatch.setattr(lock, "acquire", slowly)
    with pytest.raises(OutputError, match="already holds a run"):
        RunDir.create(tmp_path / "a")
    RunDir.resume(tmp_path / "a").close()


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_a_file_in_the_way_is_an_output_error(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"output \(.*file"):
        RunDir.create(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_removed(
    tmp_path, monkeypatch
):
    """Permission bits stop no root, so the file system's answer is given by the probe's _open."""
    path = a_run(tmp_path / "a")
    before = {name for name in snapshot(path) if name != ".lock"}

    def read_only(*args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(atomic, "_open", read_only)
    for start in (lambda: RunDir.create(path, overwrite=True), lambda: RunDir.resume(path)):
        with pytest.raises(OutputError, match="Read-only file system"):
            start()
    assert {name for name in snapshot(path) if name != ".lock"} == before


def test_a_second_process_is_refused_with_the_holder_and_death_lets_go(tmp_path):
    path = a_run(tmp_path / "a")
    hold = (
        "import sys, time; from pathlib import Path; from fasttrain.run.rundir import RunDir;"
        "run = RunDir.resume(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    who = re.escape(f"is in use by pid {holder.pid} on {socket.gethostname()} since ")
    for start in (lambda: RunDir.resume(path), lambda: RunDir.create(path, overwrite=True)):
        with pytest.raises(OutputError, match=who):
            start()
    assert len(read_epochs(path)[0]) == 12
    holder.kill()
    holder.wait()
    holder.stdout.close()
    (path / ".lock").write_text("pid 1 on " + "a" * 200)
    with RunDir.resume(path) as run:
        assert re.fullmatch(
            rf"pid {os.getpid()} on \S+ since .{{19}}\n", (path / ".lock").read_text()
        )
        with pytest.raises(OutputError, match=f"in use by pid {os.getpid()} "):
            RunDir.resume(path)
        run.close()
        RunDir.resume(path).close()
    assert (path / ".lock").read_text() == ""


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_every_system_lets_one_process_at_a_time_into_a_folder(tmp_path, monkeypatch, platform):
    path = a_run(tmp_path / "a")
    monkeypatch.setattr(lock.sys, "platform", platform)
    with FileLock(path / ".lock"):
        for start in (
            lambda: lock.acquire(path),
            lambda: checks.check_free(path, new=False),
            lambda: RunDir.resume(path),
        ):
            with pytest.raises(OutputError, match="is in use"):
                start()
    held = lock.acquire(path)
    with pytest.raises(Timeout):
        FileLock(path / ".lock", timeout=0).acquire()
    lock.release(held)
    RunDir.resume(path).close()


@pytest.mark.slow  # a shared lock of a descriptor: not on Windows
def test_two_checks_of_a_folder_do_not_disturb_each_other(tmp_path):
    path = a_run(tmp_path / "a")
    with open(path / ".lock", "rb") as file:
        assert lock._lock(file, shared=True)
        checks.check_free(path, new=False)


def test_a_locked_file_that_cannot_be_read_is_in_use_all_the_same(tmp_path, monkeypatch):
    """Windows refuses to read the byte that another process has locked."""
    path = a_run(tmp_path / "a")
    held = lock.acquire(path)

    class Locked(io.FileIO):
        def read(self, size=-1):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock.os, "fdopen", lambda handle, *_, **__: Locked(handle))
    for start in (lambda: lock.acquire(path), lambda: checks.check_free(path, new=False)):
        with pytest.raises(OutputError, match=r"is in use\. Wait for it to end"):
            start()
    lock.release(held)


def test_a_file_system_without_locks_refuses_nobody(tmp_path, monkeypatch):
    def unsupported(handle, *, blocking):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock, "lock_descriptor", unsupported)
    lock.release(lock.acquire(a_run(tmp_path / "a")))


def test_a_page_that_a_kill_left_half_written_is_cleaned_like_any_other_file(tmp_path, monkeypatch):
    drafts = []
    with monkeypatch.context() as patches:
        patches.setattr(Path, "replace", lambda self, target: drafts.append(self.name))
        write_whole(tmp_path / "report.html", "<title>a run</title>")
    assert atomic.LEFTOVER.fullmatch(drafts[0])["name"] == "report.html"
    path = a_run(tmp_path / "a")
    (path / drafts[0]).touch()
    RunDir.resume(path).close()
    assert not (path / drafts[0]).exists()
