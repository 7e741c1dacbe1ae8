"""An export that cannot be right is one line and its exit code, and leaves no file."""

import errno
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from fasttrain.cli import main as cli
from fasttrain.errors import ExportError
from fasttrain.export import folder, held_out, onnx_file, safetensors_file, verify
from fasttrain.export.verify import Case
from fasttrain.storage import atomic


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setattr(held_out, "MOST", 8)


@pytest.fixture(scope="module")
def first(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("weights") / "a"
    assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(out)]) == 0
    return out


@pytest.fixture
def weights(first, tmp_path):
    """A folder that holds an earlier export."""
    return Path(shutil.copytree(first, tmp_path / "a"))


def refused(capsys, *arguments):
    """Exit code and the one line on stderr."""
    capsys.readouterr()
    code = cli.main(["export", *map(str, arguments)])
    said = capsys.readouterr().err
    assert said.startswith("fasttrain: error: ")
    assert said.count("\n") == 1
    return code, said


def content(where):
    """Every file below a folder, hidden ones too, with its bytes."""
    return {
        str(file.relative_to(where)): file.read_bytes()
        for file in where.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--format", "onxx"),
            "--format (onxx): must be one of onnx, pt2, safetensors. Did you mean onnx?",
        ),
        (("--format", "pt2,safetensor"), "Did you mean safetensors?"),
        (("--format", "onnx,"), "--format ()"),
        (
            ("--input", "imge"),
            "--input (imge): must be one of image, prepared. Did you mean image?",
        ),
    ],
)
def test_a_word_that_there_is_not_is_exit_2_with_the_nearest(words, said, capsys, run):
    code, line = refused(capsys, run, *words)
    assert code == 2
    assert said in line


@pytest.mark.parametrize("missing", onnx_file.PACKAGES)
def test_onnx_without_its_packages_is_exit_3_and_says_what_to_install(
    missing, capsys, run, tmp_path, monkeypatch
):
    there = onnx_file.find_spec
    absent = lambda name: None if name == missing else there(name)  # noqa: E731
    monkeypatch.setattr(onnx_file, "find_spec", absent)
    code, line = refused(capsys, run, "--out", tmp_path / "a")
    assert code == 3
    assert (
        f"{missing} not installed. Run pip install 'fasttrain[export]', or use --format pt2,"
        in line
    )
    assert content(tmp_path) == {}


def test_what_is_no_run_or_has_no_checkpoint_is_refused(capsys, run, tmp_path):
    assert refused(capsys, tmp_path / "none")[0] == 2
    (tmp_path / "photos").mkdir()
    code, line = refused(capsys, tmp_path / "photos")
    assert code == 5
    assert "is not a run of fasttrain" in line
    (tmp_path / "began").mkdir()
    shutil.copy(run / "recipe.json", tmp_path / "began")
    code, line = refused(capsys, tmp_path / "began")
    assert code == 5
    assert "best.pt" in line
    assert set(content(tmp_path)) == {"began/recipe.json"}


def test_the_folder_may_be_a_link_or_the_current_one(run, first, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (tmp_path / "link", "."):
        assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(out)]) == 0
    assert (tmp_path / "link").is_symlink()
    for where in ("there", "here"):
        assert set(content(tmp_path / where)) == {file.name for file in first.iterdir()}


def test_a_folder_that_cannot_be_written_is_exit_6(capsys, run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in ("file", "file/below"):
        assert refused(capsys, run, "--format", "pt2", "--out", tmp_path / out)[0] == 6
    assert content(tmp_path) == {"file": b"in the way"}


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "model.safetensors"])
def test_what_somebody_put_or_changed_in_the_folder_is_never_lost(name, capsys, run, weights):
    with open(weights / name, "a") as file:
        file.write("mine")
    before = content(weights.parent)
    code, line = refused(capsys, run, "--format", "safetensors", "--out", weights)
    assert code == 6
    assert f"{name} in it is not as an export wrote it" in line
    assert content(weights.parent) == before


def test_an_earlier_export_is_replaced_as_a_whole(run, weights):
    words = ["--format", "pt2", "--input", "prepared", "--out", str(weights)]
    assert cli.main(["export", str(run), *words]) == 0
    files = {"model.pt2", "classes.json", "README.md", "export.json"}
    assert {file.name for file in weights.iterdir()} == files
    assert [each.name for each in weights.parent.iterdir()] == [weights.name]


@pytest.mark.parametrize("most", [0, 10_000])
def test_a_full_disk_is_exit_6_and_the_earlier_export_stays(
    most, capsys, run, weights, monkeypatch
):
    def write(handle, data, real=atomic._write):
        if len(data) > most:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    before = content(weights.parent)
    monkeypatch.setattr(atomic, "_write", write)
    for out in (weights, weights.parent / "new" / "below"):
        code, line = refused(capsys, run, "--format", "safetensors", "--out", out)
        assert code == 6
        assert "No space left on device" in line
    assert content(weights.parent) == before
    assert [each.name for each in weights.parent.iterdir()] == [weights.name]


def more(logits, probabilities):
    return logits, probabilities + np.float32(2e-4)


def of_logits(logits, probabilities):
    return logits * 2, probabilities


def no_number(logits, probabilities):
    return np.where(np.arange(10) == 3, np.nan, logits), probabilities


def of_another_shape(logits, probabilities):
    return logits[:, :9], probabilities[:, :9]


@pytest.mark.parametrize("fault", [more, of_logits, no_number, of_another_shape])
def test_a_file_that_does_not_give_the_networks_answers_is_exit_1_and_not_kept(
    fault, capsys, run, weights, monkeypatch
):
    def read(*arguments, real=safetensors_file.read, **options):
        runtime = real(*arguments, **options)
        return lambda images: fault(*runtime(images))

    before = content(weights.parent)
    monkeypatch.setattr(safetensors_file, "read", read)
    for out in (weights, weights.parent / "new"):
        code, line = refused(capsys, run, "--format", "safetensors", "--out", out)
        assert code == 1
        assert "--format (safetensors): the file" in line
    assert content(weights.parent) == before


def test_a_file_that_was_damaged_on_its_way_to_the_disk_is_not_kept(
    capsys, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(safetensors_file, "write", lambda *_: b"no such file")
    code, line = refused(capsys, run, "--format", "safetensors", "--out", tmp_path / "a")
    assert code == 1
    assert "the file that was written cannot be used: SafetensorError" in line
    assert content(tmp_path) == {}


def test_another_class_is_allowed_only_where_two_are_as_good_as_equal():
    def given(gap):
        expected = np.array([[0.5 + gap, 0.5 - gap]], np.float32) - np.float32(1e-7)
        return [Case("noise", np.zeros((1, 2, 2, 3), np.uint8), expected)]

    def runtime(images):
        found = np.array([[0.499999, 0.500001]], np.float32)
        return np.log(found), found

    numbers = verify.verified("onnx", lambda: runtime, given(2e-5))
    assert (numbers["images"], numbers["same_class"]) == (1, 0)
    assert 1e-5 < numbers["max_difference_of_probabilities"] < 3e-5
    with pytest.raises(ExportError, match="1 of 1 images get another class"):
        verify.verified("onnx", lambda: runtime, given(7e-5))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_export_that_is_stopped_leaves_nothing(number, code, capsys, run, weights, monkeypatch):
    before = content(weights.parent)
    monkeypatch.setattr(verify, "verified", lambda *_: signal.raise_signal(number))
    arguments = (run, "--format", "safetensors", "--out", weights)
    found, line = refused(capsys, *arguments)
    assert found == code
    assert line == f"fasttrain: error: stopped by {number.name}\n"
    assert content(weights.parent) == before
    assert [each.name for each in weights.parent.iterdir()] == [weights.name]


def test_what_a_killed_export_left_is_removed_or_put_back(tmp_path):
    out = tmp_path / "a"
    (tmp_path / ".a.01234567.tmp").mkdir()
    (tmp_path / f".a.01234567{folder.OLD}").mkdir()
    (tmp_path / f".a.01234567{folder.OLD}" / folder.RECORD).write_text(json.dumps({"files": {}}))
    with pytest.raises(RuntimeError), folder.replaced(out):
        raise RuntimeError
    assert set(content(tmp_path)) == {"a/export.json"}
    with folder.replaced(out) as new:
        (new / "model.onnx").write_text("new")
    assert set(content(tmp_path)) == {"a/model.onnx"}
