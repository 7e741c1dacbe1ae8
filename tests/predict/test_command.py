"""`fasttrain predict`: rows on stdout, the rest on stderr, one line and a code for each mistake."""

import builtins
import csv
import io
import json
import os
import signal
import struct
import sys
import zlib

import processes
import pytest
from made_images import save

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.predict.classifier import Classifier


@pytest.fixture
def predict(trained, capsys):
    """Run the command on the run; return exit status, stdout and stderr."""

    def run(*words, of=trained):
        code = cli.main(["predict", str(of), *map(str, words)])
        return code, *capsys.readouterr()

    return run


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_of_class_folders_gives_rows_and_its_score_apart(predict, pictures, trained):
    code, out, err = predict(pictures, "--top", "3")
    assert code == 0
    rows = read(out)
    assert [row["path"] for row in rows] == sorted(str(p) for p in pictures.rglob("*.png"))
    assert all(row["class"] == row["class_1"] and row["error"] == "" for row in rows)
    counted = json.loads((trained / "class_accuracy.json").read_text())
    right = sum(row["correct"] for row in counted["classes"])
    lines = err.splitlines()
    assert lines[0] == f"accuracy {100 * right / 300:.2f} %: {right} of 300 images"
    cells = [[int(cell) for cell in line.split()[2:12]] for line in lines[3:]]
    assert cells == counted["confusion"]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "table"])
def test_each_format_goes_to_a_file_by_its_ending(form, predict, pictures, tmp_path):
    path = tmp_path / f"out.{'txt' if form == 'table' else form}"
    code, out, err = predict(pictures / "cat", "--out", path)
    assert (code, out, err) == (0, "", "")
    _, shown, _ = predict(pictures / "cat", "--format", form)
    assert path.read_text() == shown
    assert str(sorted((pictures / "cat").iterdir())[0]) in shown
    assert os.listdir(tmp_path) == [path.name]


def test_the_table_ends_with_the_score(predict, pictures):
    _, out, _ = predict(pictures)
    middle = sorted((row["probability"] for row in read(out)), key=float)[150]
    code, out, err = predict(pictures, "--format", "table", "--threshold", middle)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[300] == ""
    assert lines[301].startswith("accuracy ")
    assert lines[302].startswith(f"at a probability of {middle} or more: ")
    unsure = sum(line.startswith("unsure ") for line in lines[:300])
    assert 0 < unsure < 300
    assert f"of {300 - unsure} images" in lines[302]


def test_the_rows_are_those_of_python(predict, pictures, trained):
    _, out, _ = predict(pictures, "--format", "jsonl", "--test-flips", "--batch-size", "7")
    classifier = fasttrain.load(trained, device="cpu")
    found = classifier.predict(pictures, flips=True, batch_size=7)
    for line, one in zip(out.splitlines(), found, strict=True):
        row = json.loads(line)
        assert (row["path"], row["class"], row["error"]) == (one.path, one.class_name, None)
        assert row["probability"] == pytest.approx(one.probability, rel=1e-5)


def bomb(path):
    """A PNG of 20,000 x 20,000 pixels in a hundred bytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))
    path.write_bytes(data + chunk(b"IEND", b""))
    return path


def test_bad_files_are_rows_with_their_reasons_and_exit_4_at_the_end(predict, tmp_path):
    good = save(tmp_path / "good.png")
    text = tmp_path / "text.png"
    text.write_text("not an image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.png").write_bytes(b"")
    named = [text, good, bomb(tmp_path / "bomb.png"), tmp_path / "no.png", tmp_path / "none.png"]
    code, out, err = predict(*named, tmp_path / "empty", good)
    assert code == 4
    line = processes.one_line(err)
    assert "predict: 5 of 7 could not be used" in line
    assert f"{text}: not an image that Pillow knows" in line
    rows = read(out)
    assert [row["path"] for row in rows] == [*map(str, named), str(tmp_path / "empty"), str(good)]
    assert [bool(row["error"]) for row in rows] == [True, False, True, True, True, True, False]
    assert "more than 100 megapixels" in rows[2]["error"]
    assert "No such file" in rows[3]["error"]
    assert (rows[4]["error"], rows[5]["error"]) == ("empty", "no images in it")
    assert all(row["class"] for row in rows if not row["error"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--top", "0"], 2, "--top ('0'): must be a whole number from 1 to 99999"),
        (["--top", "11"], 2, "--top (11): must be from 1 to 10, the number of this run's classes"),
        (["--threshold", "1.5"], 2, "--threshold ('1.5'): must be from 0 to 1"),
        (["--threshold", "nan"], 2, "--threshold ('nan'): must be from 0 to 1"),
        (["--batch-size", "-1"], 2, "--batch-size ('-1'): must be a whole number"),
        (["--format", "jsno"], 2, "--format (jsno): must be one of csv, json, jsonl, table. Did"),
        (["--out", "a.png"], 2, "--out (a.png): ends in none of .csv, .json, .jsonl, .txt"),
        (["--out", "nosuch/a.csv"], 6, "output (nosuch/a.csv): No such file or directory"),
        (["--out", "folder.csv"], 6, "output (folder.csv): is no plain file"),
        (["--out", "list.csv", "list.csv"], 2, "--out (list.csv): is read by this command"),
        (["--device", "tpu"], 3, "--device ('tpu'): not a device"),
        (
            ["--tpo", "3"],
            2,
            "argument ('--tpo'): not known to fasttrain predict. Did you mean --top?",
        ),
    ],
)
def test_a_mistake_is_one_line_before_any_row(words, code, said, predict, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "1.png")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "list.csv").write_text("file_name\n1.png\n")
    found, out, err = predict("1.png", *words)
    assert (found, out) == (code, "")
    assert said in processes.one_line(err)
    assert sorted(os.listdir(tmp_path)) == ["1.png", "folder.csv", "list.csv"]
    assert (tmp_path / "list.csv").read_text() == "file_name\n1.png\n"


def test_what_is_no_run_is_exit_5(predict, tmp_path):
    image = save(tmp_path / "1.png")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "foreign" / "checkpoints").mkdir(parents=True)
    (tmp_path / "foreign" / "checkpoints" / "best.pt").write_bytes(b"PK\x03\x04 of another")
    for name in ("run", "foreign", "nosuch", "1.png"):
        code, out, err = predict(image, of=tmp_path / name)
        assert (code, out) == (5, "")
        processes.one_line(err)


def test_no_paths_at_all_are_said(predict, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    code, out, err = predict("-")
    assert (code, out) == (4, "path,class,probability,error\n")
    assert "no images were named" in processes.one_line(err)
    assert predict()[0] == 2


def test_a_list_on_standard_input_is_answered_line_by_line(predict, pictures, monkeypatch):
    paths = sorted(str(path) for path in (pictures / "dog").iterdir())[::-1]
    data = "\n".join(paths).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, _ = predict("-")
    assert code == 0
    assert [row["path"] for row in read(out)] == paths


@pytest.mark.slow  # signals and pipes of Linux
def test_a_reader_that_goes_ends_it_quietly_with_141(trained, pictures, tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    words = ["predict", str(trained), str(pictures)]
    child = processes.Child(tmp_path / "log", words, stdout=write_end)
    os.close(write_end)
    ended = child.ended()
    assert (ended.status, ended.err) == (141, "")


@pytest.mark.slow
def test_a_full_disk_behind_standard_output_is_exit_6(trained, pictures, tmp_path):
    full = os.open("/dev/full", os.O_WRONLY)
    words = ["predict", str(trained), str(pictures)]
    child = processes.Child(tmp_path / "log", words, stdout=full)
    os.close(full)
    ended = child.ended()
    assert ended.status == 6
    assert "standard output: No space left on device" in processes.one_line(ended.err)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_a_line_and_leaves_no_file(number, code, trained, pictures, tmp_path):
    out = tmp_path / "out" / "rows.csv"
    out.parent.mkdir()
    words = ["predict", str(trained), str(pictures), "--out", str(out)]
    ended = processes.Child(tmp_path / "log", words, phase="predict").reached().send(number).ended()
    assert ended.status == code
    line = processes.one_line(ended.err)
    assert f"stopped by {signal.Signals(number).name}: 0 images done, no file written" in line
    assert os.listdir(out.parent) == []
    assert ended.seconds < 5


def test_no_loader_of_training_and_no_plotting_is_imported(predict, tmp_path, monkeypatch):
    """They would cost the first row seconds."""
    real, seen = builtins.__import__, set()

    def recorded(name, *rest):
        seen.add(name.partition(".")[0])
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", recorded)
    assert predict(save(tmp_path / "1.png"))[0] == 0
    assert not {"nvidia", "matplotlib", "triton", "tensorboard", "timm", "pyarrow"} & seen


def test_out_of_memory_names_a_smaller_batch(predict, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Classifier, "probabilities", fails)
    code, _, err = predict(save(tmp_path / "1.png"), "--batch-size", "64")
    assert code == 8
    assert "--batch-size (64): out of memory on cpu" in processes.one_line(err)
    assert "Try --batch-size 32" in err


def test_where_nobody_reads_a_terminal_there_is_no_bar(predict, pictures):
    _, out, err = predict(pictures / "cat", "--format", "jsonl")
    assert "\x1b" not in out + err
    assert err == ""


def test_a_bar_in_a_terminal_leaves_the_rows_alone(trained, pictures, tmp_path):
    """stderr is a terminal, stdout a pipe: rich would take what is printed meanwhile to the bar."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write_end, 1), os.dup2(theirs, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os._exit(cli.main(["predict", str(trained), str(pictures), "--format", "csv"]))
    os.close(write_end), os.close(theirs)
    with os.fdopen(read_end) as rows:
        found = rows.read()
    shown = os.read(ours, 1 << 16).decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(read(found)) == 300
    assert "\x1b" not in found
    assert "images" in shown
    assert "/300" in shown
