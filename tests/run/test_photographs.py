"""A folder as people have one, every mode, turn and damage in it, from `data` to a comparison.

The photographs are drawn here; benchmarks/photographs.py cuts them up as it does real ones.
"""

from __future__ import annotations

import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from processes import Child, flags, one_line
from tiny_runs import end, same

from benchmarks import photographs
from fasttrain.cli import main as cli
from fasttrain.data import listing_file
from fasttrain.explain import explain
from fasttrain.explain.subject import open_run
from fasttrain.report import html

MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"}
REASONS = ("truncated", "empty", "damaged header", "more than 100 megapixels")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """`path` of the folder, the names of its `spoilt` files, a `cache` for prepared pixels."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for file in photographs.PICTURES.values():
        few = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        few.resize((110, 110), Image.Resampling.BICUBIC).save(root / file)
    path = root / "große Sammlung"
    assert photographs.cut(root, path, sizes=(8, 25)) > 200
    spoilt = [file.relative_to(path).as_posix() for file in photographs.spoil(path)]
    return SimpleNamespace(path=path, spoilt=spoilt, cache=str(root / "cache"))


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A run without the spoilt files that nobody disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert start(run, photos).ended().status == 0
    return run


def start(run, photos, **options):
    changes = {"dataset": photos.path, "cache_dir": photos.cache, "train_limit": 500}
    changes |= {"epochs": 2, "save_every": 0.001, "amp": "off"}
    return Child(run.with_suffix(".log"), [*flags(run, **changes), "--skip-bad-files"], **options)


def test_data_names_every_problem_at_once_and_says_what_is_odd(photos, capsys):
    assert cli.main(["data", "--dataset", str(photos.path), "--cache-dir", photos.cache]) == 4
    out, err = capsys.readouterr()
    assert "7 files cannot be used" in one_line(err)
    for name in photos.spoilt:
        assert f"cannot be used: {name}: " in out
    for reason in REASONS:
        assert reason in out
    for odd in (
        "without images, left out: empty class",
        "that are not images: .txt 1",
        "16-bit: ",
        "alpha: ",
    ):
        assert odd in out
    assert "identical files with different labels: 1" in out
    assert all(f"EXIF {turn}: " in out for turn in range(2, 9))


def test_a_training_names_them_all_too_and_begins_nothing(photos, tmp_path, capsys):
    words = ["--dataset", str(photos.path), "--cache-dir", photos.cache, "--side", "32"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 4
    said = one_line(capsys.readouterr().err)
    assert all(name in said for name in photos.spoilt)
    assert "--skip-bad-files" in said
    assert not (tmp_path / "run").exists()


def test_without_them_images_of_every_mode_and_turn_train(photos, whole):
    found = listing_file.read(whole / "listing.csv")
    assert {bad.path for bad in found.bad} == set(photos.spoilt)
    assert {row.mode for row in found.rows} >= MODES
    notes = {note for row in found.rows for note in row.note.split(", ")}
    assert notes >= {"16-bit", "alpha", *(f"EXIF {turn}" for turn in range(2, 9))}
    assert len(json.loads((whole / "classes.json").read_text())) == len(photographs.PICTURES)


@pytest.mark.parametrize("phase", ["data", "epoch", "eval"])
def test_killed_and_resumed_it_ends_bitwise_as_one_left_alone(phase, photos, whole, tmp_path):
    child = start(tmp_path / "run", photos, phase=phase).reached()
    assert child.send(signal.SIGKILL).ended().status == -signal.SIGKILL
    assert start(tmp_path / "run", photos).ended().status == 0
    assert same(end(tmp_path / "run"), end(whole))


@pytest.mark.usefixtures("tiny")
def test_it_is_explained_reported_and_compared_without_the_spoilt_files(
    photos, whole, tmp_path, capsys
):
    subject = open_run(whole, device="cpu", cache_dir=photos.cache)
    explain.explain(subject, whole)
    page = html.write(whole).read_text(encoding="utf-8")
    mistakes = json.loads((whole / "misclassified.json").read_text())["images"]
    assert mistakes
    for mistake in mistakes:
        assert mistake["file"].startswith(f"{mistake['true']}/")
        assert mistake["file"] in page
        assert mistake["file"] not in photos.spoilt
    page = str(tmp_path / "compare.html")
    copy = shutil.copytree(whole, tmp_path / "copy")
    assert cli.main(["compare", str(whole), str(copy), "--out", page]) == 0
    assert "best val accuracy" in capsys.readouterr().out
