"""A file holds its old or its new content, whatever operation fails during a write."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import pytest
from faults import CRASHES, ERRORS, FOR_GOOD, Faults, every_fault

from fasttrain.errors import OutputError
from fasttrain.storage import atomic

OLD, NEW = b"the old content\n" * 300, b"what is new\n" * 500
LINE = "a line of text"


def names(folder):
    return sorted(os.listdir(folder))


def violations(write, kind, folder, monkeypatch, *, new=NEW):
    """Break each operation of `write(path)` in turn; return the errors and their number."""
    wrong, path = [], folder / "summary.json"
    for faults in every_fault(monkeypatch, kind):
        path.write_bytes(OLD)
        outcome = faults.run(lambda: write(path))
        here = f"{kind} at {faults.at} of {faults.calls}: {outcome}"
        found = path.read_bytes() if path.exists() else b""
        if found != new and (found != OLD or outcome == "done"):
            wrong.append(f"{here}, {len(found)} bytes")
        if names(folder) != ["summary.json"] and kind in ERRORS:
            wrong.append(f"{here}, left {names(folder)}")
        atomic.remove_leftovers(folder)
        assert names(folder) == ["summary.json"]
    return wrong, faults.at - 1


@pytest.mark.parametrize("kind", [*ERRORS, FOR_GOOD, *CRASHES])
def test_a_file_is_old_or_new_after_any_failure_at_any_operation(kind, tmp_path, monkeypatch):
    wrong, points = violations(
        lambda path: atomic.write_atomically(path, NEW), kind, tmp_path, monkeypatch
    )
    assert wrong == []
    assert points >= 6  # open, write, fsync, replace, open and fsync of the folder


@pytest.mark.parametrize("kind", ["ENOSPC", "short", "crash"])
def test_writing_in_place_does_not_pass_the_same_check(kind, tmp_path, monkeypatch):
    def in_place(path):
        with atomic.reported(path):
            handle = atomic._open(path, os.O_WRONLY | os.O_TRUNC)
            atomic._write(handle, NEW)
            os.close(handle)

    wrong, _ = violations(in_place, kind, tmp_path, monkeypatch)
    assert wrong


@pytest.mark.parametrize("kind", ERRORS)
def test_a_line_is_appended_whole_or_not_at_all(kind, tmp_path, monkeypatch):
    wrong, points = violations(
        lambda path: atomic.append_line(path, LINE),
        kind,
        tmp_path,
        monkeypatch,
        new=OLD + LINE.encode() + b"\n",
    )
    assert wrong == []
    assert points >= 2


def test_a_line_after_a_torn_one_starts_on_its_own(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    atomic.append_line(path, "first")
    torn = Faults(monkeypatch, 2, "crash in a write")
    assert torn.run(lambda: atomic.append_line(path, "second")) == "crashed"
    assert path.read_bytes() == b"first\nsec"
    atomic.append_line(path, "third")
    assert path.read_text().splitlines() == ["first", "sec", "third"]
    with pytest.raises(ValueError, match="one line"):
        atomic.append_line(path, "two\nlines")


def test_an_error_of_fsync_is_never_called_a_success(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    monkeypatch.setattr(atomic, "_fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "EIO")))
    with pytest.raises(OutputError, match=r"output \(.*a\.json\): EIO\. "):
        atomic.write_atomically(path, NEW)
    assert names(tmp_path) == []


def test_the_file_reaches_the_disk_before_its_name_and_then_the_folder(tmp_path, monkeypatch):
    faults = Faults(monkeypatch, 99, "EIO")
    faults.run(lambda: atomic.write_atomically(tmp_path / "a", NEW))
    assert faults.calls == ["_open", "_write", "_fsync", "_replace", "_open", "_fsync"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from fasttrain.storage import atomic
from fasttrain.errors import OutputError
path, new = Path(sys.argv[1]), b"x" * 4000
for limit in range(0, 4400, 200):
    path.write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        atomic.write_atomically(path, new)
        said = "written"
    except OutputError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print(limit, len(list(path.parent.iterdir())), len(path.read_bytes()), said, sep="|")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_a_real_limit_is_named_with_the_bytes_needed_and_leaves_the_old_file(tmp_path):
    """The kernel's own short writes and errors, at 22 sizes."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "best.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 22
    for line in done.stdout.splitlines():
        limit, entries, size, said = line.split("|")
        assert entries == "1"
        assert size == ("4000" if int(limit) >= 4000 else "3")
        assert (said == "written") == (int(limit) >= 4000)
        assert said == "written" or re.search(r"4,000 bytes needed, [\d,]+ free\. Make room", said)


@pytest.mark.parametrize("kind", ["a folder", "a folder is missing", "a file on the way"])
def test_a_path_that_cannot_be_written_is_an_output_error(kind, tmp_path):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "file").touch()
    path = {"a folder is missing": "no/x", "a file on the way": "file/x"}.get(kind, kind)
    before = names(tmp_path)
    with pytest.raises(OutputError, match=re.escape(path)):
        atomic.write_atomically(tmp_path / path, NEW)
    assert names(tmp_path) == before


def test_a_planted_link_is_replaced_and_never_written_through(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "a.json"
    victim.write_bytes(OLD)
    path.symlink_to(victim)
    with pytest.raises(OutputError):
        atomic.append_line(path, LINE)
    atomic.write_atomically(path, NEW)
    assert (victim.read_bytes(), path.read_bytes()) == (OLD, NEW)
    assert not path.is_symlink()


def test_only_leftovers_of_unfinished_writes_are_removed(tmp_path):
    mine = [".last.pt.123.0123abcd.tmp", ".best.pt.9.ffffffff.tmp"]
    foreign = ["last.pt", ".last.pt.tmp", ".last.pt.123.0123ABCD.tmp", "last.pt.1.0123abcd.tmp"]
    for name in mine + foreign:
        (tmp_path / name).touch()
    atomic.remove_leftovers(tmp_path, of="last.pt")
    assert names(tmp_path) == sorted([*foreign, mine[1]])
    atomic.remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(foreign)


def test_json_has_no_nan_and_survives_any_path(tmp_path):
    value = {
        "a": [1.5, math.nan, (math.inf, {"b": -math.inf})],
        "path": os.fsdecode(b"\xff\xc3\xa9"),
    }
    atomic.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    expected = {"a": [1.5, None, [None, {"b": None}]], "path": "\udcff\u00e9"}
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == expected
    assert text.endswith("}\n")
    assert "\u00e9" in text


def test_setting_aside_never_takes_a_taken_name(tmp_path):
    for content in (b"1", b"2", b"3"):
        (tmp_path / "last.pt").write_bytes(content)
        atomic.set_aside(tmp_path / "last.pt", ".damaged")
    found = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    expected = {"last.pt.damaged": b"1", "last.pt.damaged-2": b"2", "last.pt.damaged-3": b"3"}
    assert found == expected
