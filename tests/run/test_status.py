"""`runs` says how far each run is, whatever its folder holds, and changes nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from pathlib import Path

import pytest
from fixture_run import put, write_run

from fasttrain.cli import main as cli
from fasttrain.cli.runs import runs
from fasttrain.errors import Diverged, Stopped, UsageError
from fasttrain.run import lock
from fasttrain.run.rundir import RunDir
from fasttrain.run.status import statuses

RECIPE = {"recipe": "resnet18", "epochs": 10}


def status(path: Path):
    (found,) = statuses(path)
    return found


def begun(folder: Path, *, epochs: int = 3, split: str = "test") -> RunDir:
    """An open run after some epochs of two seconds each, the second the best."""
    run = RunDir.create(folder)
    run.begin(RECIPE, {})
    for epoch in range(1, epochs + 1):
        accuracy = 0.9 if epoch == 2 else 0.5
        run.append_epoch({"epoch": epoch, f"{split}_accuracy": accuracy, "seconds": 2.0})
    return run


def test_a_run_is_running_as_long_as_its_process_holds_the_lock(tmp_path):
    with begun(tmp_path / "a"):
        found = status(tmp_path)
        assert found[:7] == ("a", str(tmp_path / "a"), "running", 3, 10, 0.9, 2)
        assert found.held_out == "test"
        assert f"pid {os.getpid()} on " in found.note
    assert status(tmp_path).state == "interrupted"
    assert status(tmp_path).note == ""
    assert status(tmp_path).seconds_left is None


def test_the_time_left_counts_what_an_epoch_takes_beside_training(tmp_path):
    with begun(tmp_path / "a", epochs=4):
        now = time.time()
        os.utime(tmp_path / "a" / "environment.json", (now - 12, now - 12))
        os.utime(tmp_path / "a" / "metrics.jsonl", (now, now))
        # Four epochs of 2 s of training took 12 s, so six more take 18 s.
        assert status(tmp_path).seconds_left == pytest.approx(18, abs=1)
        # Of a resumed run only the last two were in this session, of 6 s.
        os.utime(tmp_path / "a" / "environment.json", (now - 5, now - 5))
        assert status(tmp_path).seconds_left == pytest.approx(6 * 2 * 5 / 4, abs=1)


def test_a_run_before_its_first_epoch_has_no_time_left_yet(tmp_path):
    with begun(tmp_path / "a", epochs=0):
        assert status(tmp_path)[2:8] == ("running", 0, 10, None, None, None)
        assert status(tmp_path).seconds_left is None


def test_a_finished_run_is_done_with_the_best_epoch_that_its_summary_names(tmp_path):
    run = write_run(tmp_path / "a", epochs=6)
    (run / "report.html").touch()
    summary = json.loads((run / "summary.json").read_text())
    put(run, "summary.json", summary | {"finished": True})
    found = status(tmp_path)
    assert found[2:5] == ("done", 6, 6)
    assert found.accuracy == summary["best_test_accuracy"]
    assert found.best_epoch == summary["best_epoch"]
    (run / "report.html").unlink()
    found = status(tmp_path)
    assert (found.state, found.note) == ("interrupted", "trained, but without its report")


@pytest.mark.parametrize("error", [Diverged("the loss is NaN. Lower --lr."), ValueError("x\n\x1b")])
def test_a_run_that_an_error_ended_has_failed_until_it_is_resumed(error, tmp_path):
    with pytest.raises(type(error)), begun(tmp_path / "a"):
        raise error
    found = status(tmp_path)
    assert found.state == "failed"
    assert found.note.startswith(f"({getattr(error, 'code', 1)}): ")
    assert found.note.isprintable()
    assert "NaN" in found.note or "x" in found.note
    with RunDir.resume(tmp_path / "a"):
        assert status(tmp_path).state == "running"
    assert status(tmp_path).state == "interrupted"


def test_a_run_that_was_stopped_or_whose_resumption_was_refused_was_interrupted(tmp_path):
    with pytest.raises(Stopped), begun(tmp_path / "a"):
        raise Stopped("stopped by SIGTERM", signum=15)
    assert status(tmp_path).state == "interrupted"
    with pytest.raises(UsageError), RunDir.resume(tmp_path / "a"):
        raise UsageError("--lr (1): the run to be resumed has 0.1.")
    assert status(tmp_path).state == "interrupted"


def test_of_a_killed_run_it_says_which_process_is_gone(tmp_path):
    begun(tmp_path / "a").close()
    (tmp_path / "a" / lock.LOCK).write_text("pid 17 on a-host since 2026-11-26 03:00:00\n")
    found = status(tmp_path)
    assert (found.state, found.note) == ("interrupted", "pid 17 on a-host is gone")


def test_a_look_never_takes_the_lock_of_a_run_that_nobody_holds(tmp_path, monkeypatch):
    """Otherwise a run that starts in this moment would be refused."""
    begun(tmp_path / "a").close()
    with monkeypatch.context() as patches:
        patches.setattr(lock, "_lock", lambda *args, **options: 1 / 0)
        assert status(tmp_path).state == "interrupted"


def damaged(root: Path) -> None:
    """Folders with what is left after accidents, and others that are no runs."""
    for name in ("empty", "notes", *"abcdefgh"):
        (root / name).mkdir()
    (root / "notes" / "recipe.txt").write_text("flour")
    (root / "file").write_text("no folder")
    (root / "a" / "recipe.json").write_bytes(b'{"recipe": "spr')
    (root / "b" / "metrics.jsonl").write_text('{"epoch": 1, "test_accuracy": 0.5}\n')
    put(root / "c", "recipe.json", {"recipe": ["x"], "epochs": {"y": 1}})
    put(root / "d", "recipe.json", RECIPE)
    (root / "d" / "metrics.jsonl").write_text(
        '{"epoch": 1, "test_accuracy": "high", "seconds": null}\n'
        '{"epoch": [], "test_accuracy": 0.25, "seconds": 1e999}\n{"epoch": 3, "test_acc'
    )
    put(root / "e", "recipe.json", RECIPE)
    (root / "e" / "metrics.jsonl").mkdir()
    (root / "e" / lock.LOCK).mkdir()
    (root / "e" / "summary.json").mkdir()
    put(root / "f", "recipe.json", RECIPE)
    put(root / "f", "summary.json", [1])
    (root / "f" / "metrics.jsonl").symlink_to("missing")
    (root / "g" / "recipe.json").symlink_to("recipe.json")
    (root / "h" / "recipe.json").write_text("[" * 100_000)
    if hasattr(os, "mkfifo"):
        for name in ("recipe.json", "metrics.jsonl", "summary.json", lock.LOCK):
            (root / "pipes").mkdir(exist_ok=True)
            os.mkfifo(root / "pipes" / name)


def test_a_damaged_folder_is_one_line_and_what_is_no_run_none(tmp_path, capsys):
    damaged(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    head, *lines = out.splitlines()
    assert head.split() == ["run", "state", "epoch", "accuracy", "left"]
    pipes = ["pipes"] if hasattr(os, "mkfifo") else []
    assert sorted(line.split()[0] for line in lines) == [*"abcdefgh", *pipes]
    found = {each.name: each for each in statuses(tmp_path)}
    assert {name for name in found if found[name].state == "damaged"} == {*"abgh", *pipes}
    assert found["b"].epoch == 1
    assert found["d"][2:7] == ("interrupted", 2, 10, 0.25, None)
    assert "damaged in line 3" in found["d"].note
    assert found["c"].epochs is None
    assert sorted(tmp_path.rglob("*")) == before


def test_the_runs_of_a_series_are_listed_and_the_newest_comes_first(tmp_path):
    for number, name in enumerate(["old", "series/seed-10", "series/seed-9", "new"]):
        begun(tmp_path / name).close()
        os.utime(tmp_path / name / "recipe.json", (number, number))
    names = [each.name for each in statuses(tmp_path)]
    assert names == ["new", "series/seed-9", "series/seed-10", "old"]
    assert [each.name for each in statuses(tmp_path / "series")] == ["seed-9", "seed-10"]
    assert [each.name for each in statuses(tmp_path / "old")] == ["old"]


def test_the_table_and_the_other_formats_hold_the_same(tmp_path):
    for name in ("a", "b\x1b[31m"):
        begun(tmp_path / name, split="val").close()
    found = [each._asdict() for each in statuses(tmp_path)]
    assert json.loads(runs(tmp_path, "json")) == found
    assert [json.loads(line) for line in runs(tmp_path, "jsonl").splitlines()] == found
    rows = list(csv.DictReader(io.StringIO(runs(tmp_path, "csv"))))
    wanted = [{k: "" if v is None else str(v) for k, v in each.items()} for each in found]
    assert rows == wanted
    lines = runs(tmp_path).splitlines()
    assert all("3/10" in line and "90.00% val" in line for line in lines[1:])
    assert all(line.isprintable() for line in lines)
    assert len({line.index("interrupted") for line in lines[1:]}) == 1


def test_where_there_is_nothing_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert runs(None) == "no runs in runs\n"
    assert json.loads(runs(None, "json")) == []
    assert cli.main(["runs", "missing"]) == 2
    assert "runs (missing): does not exist. Name a folder with runs." in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert cli.main(["runs", "file"]) == 2
