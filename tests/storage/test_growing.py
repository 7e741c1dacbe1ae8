"""A file that grows for hours is in its place only when it is whole."""

import os

import pytest

from fasttrain.errors import OutputError
from fasttrain.storage import growing


def test_what_is_appended_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with growing.written(path) as append:
        append(b"one\n")
        append(b"two\n")
        assert path.read_text() == "old"
    assert path.read_text() == "one\ntwo\n"
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def fails():
        with growing.written(path) as append:
            append(b"one\n")
            raise error

    with pytest.raises(error):
        fails()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_is_said_and_changes_nothing(call, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.csv").write_text("old")
    monkeypatch.setattr(os, call, fails)
    with (
        pytest.raises(OutputError, match=r"a\.csv\): No space left on device, .* Make room"),
        growing.written(tmp_path / "a.csv") as append,
    ):
        append(b"one")
    assert (tmp_path / "a.csv").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_what_cannot_be_replaced_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe") if hasattr(os, "mkfifo") else (tmp_path / "pipe").mkdir()
    (tmp_path / "folder").mkdir()
    for name in ("folder", "pipe", "nosuch/a.csv", os.devnull):
        with pytest.raises(OutputError, match=r"^output \("), growing.written(tmp_path / name):
            raise AssertionError("it began")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]
