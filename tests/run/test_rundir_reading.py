"""What a run directory says of its run, also after a crash in the middle of a line."""

from __future__ import annotations

import json
import os
from datetime import datetime

import pytest

from fasttrain.errors import CheckpointError
from fasttrain.run.folders import newest, read_epochs
from fasttrain.run.new_folders import new_folder
from fasttrain.run.rundir import RunDir
from tests.run.test_rundir import a_run, row, snapshot


@pytest.mark.parametrize("kind", ["missing", "empty", "foreign", "damaged"])
def test_only_a_run_can_be_resumed(kind, tmp_path):
    path = tmp_path / "a"
    if kind != "missing":
        path.mkdir()
    if kind in ("foreign", "damaged"):
        (path / "recipe.json").write_text({"foreign": "[1]", "damaged": '{"recipe": "re'}[kind])
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match=r"run \(.*\): there is none\."):
        RunDir.resume(path)
    assert snapshot(tmp_path) == before


def test_epochs_are_read_up_to_a_torn_or_damaged_line_and_nothing_is_rewritten(tmp_path):
    path = a_run(tmp_path / "a", epochs=3)
    file = path / "metrics.jsonl"
    whole = file.read_bytes()
    assert read_epochs(path) == ([row(1), row(2), row(3)], None)
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        rows, note = read_epochs(path)
        complete = (whole[:cut] + b"\n").count(b"}\n")  # a whole row may lack its line's end
        assert rows == [row(1), row(2), row(3)][:complete]
        assert (note is None) == (whole[:cut].rstrip().endswith(b"}") or not cut)
        assert file.read_bytes() == whole[:cut]
    for bad in (b"\xff\n", b"[1]\n", b"null\n", b"[" * 100_000 + b"\n"):
        file.write_bytes(json.dumps(row(1)).encode() + b"\n" + bad + whole)
        rows, note = read_epochs(path)
        assert rows == [row(1)]
        assert "damaged in line 2 of 5" in note


def test_rewriting_epochs_makes_the_file_what_the_checkpoint_had(tmp_path):
    with RunDir.resume(a_run(tmp_path / "a", epochs=3)) as run:
        run.rewrite_epochs([row(1), {**row(2), "test_loss": float("nan")}])
        run.append_epoch(row(3))
        assert read_epochs(run.path)[0] == [row(1), {**row(2), "test_loss": None}, row(3)]
        run.rewrite_epochs([])
        assert read_epochs(run.path) == ([], None)


def test_the_newest_unfinished_run_is_the_one_started_last(tmp_path):
    assert newest(tmp_path / "runs") is None
    for number, name in enumerate(("c", "a", "b", "finished")):
        path = a_run(tmp_path / name, epochs=1)
        os.utime(path / "recipe.json", (number, number))
    (tmp_path / "finished" / "summary.json").write_text('{"finished": true}')
    (tmp_path / "b" / "summary.json").write_text('{"finished": false}')  # killed while looking back
    (tmp_path / "z-not-a-run").mkdir()
    assert newest(tmp_path) == tmp_path / "b"
    os.utime(tmp_path / "c" / "recipe.json", (2, 2))
    assert newest(tmp_path) == tmp_path / "c", "of equal times the later name"


def test_runs_without_a_name_are_named_after_recipe_and_start_and_never_share_a_folder(tmp_path):
    when = datetime(2026, 11, 23, 21, 5, 0)
    found = [new_folder(tmp_path / "runs", "resnet18", when) for _ in range(3)]
    name = "resnet18-20261123-210500"
    assert [path.name for path in found] == [name, f"{name}-2", f"{name}-3"]
    assert all(path.is_dir() for path in found)
