"""What `data` tells of a person's images: all of it at once, and what is fatal."""

import shutil

import pytest
from made_images import folder, listing_of, prepared, save

from fasttrain.data import problems
from fasttrain.data.listing import Bad, Listing, Row
from tests.data.test_prepare import spoil


def said(path, cache, **options):
    made = prepared(path, cache, side=8, skip_bad_files=True)
    return problems.problems(made.listing, **options)


def test_a_good_data_set_has_counts_and_nothing_fatal(tmp_path):
    folder(tmp_path / "d" / "train", ["a", "b"], count=6)
    folder(tmp_path / "d" / "test", ["a", "b"], count=2, start=500, height=30, width=50)
    report = said(tmp_path / "d", tmp_path / "cache")
    assert report.fatal == []
    assert report.lines == [
        "2 classes: a, b",
        "train: 12 images, 6 to 6 a class: a 6, b 6",
        "test: 4 images, 2 to 2 a class: a 2, b 2",
        "sizes: shorter side 20 to 30 pixels, median 20; longer side up to 50",
        "modes: RGB 16",
    ]


def test_all_problems_are_said_at_once(tmp_path):
    data = tmp_path / "d"
    folder(data / "train", ["a", "b", "c"], count=8)
    folder(data / "test", ["a", "b"], count=2, start=500)
    for bad in spoil(data):
        assert (data / bad).exists()
    save(data / "train" / "few" / "1.png", 4000)
    for number in range(90):
        save(data / "train" / "many" / f"{number}.png", 6000 + number, height=3, width=3)
    save(data / "train" / "a" / "alpha.png", 4001, mode="RGBA")
    save(data / "train" / "a" / "deep.png", 4002, mode="I;16")
    shutil.copy(data / "train/a/0.png", data / "test/a/leak.png")
    shutil.copy(data / "train/a/1.png", data / "train/b/wrong.png")
    shutil.copy(data / "train/a/2.png", data / "train/a/twice.png")
    report = said(data, tmp_path / "cache")
    text = "\n".join(report.lines)
    for line in (
        "identical files with different labels: 1",
        "  train/a/1.png (train, a) = train/b/wrong.png (train, b)",
        "identical files in different splits: 1",
        "  train/a/0.png (train, a) = test/a/leak.png (test, a)",
        "identical files of one class and split: 1 copies",
        "alpha: 1 images",
        "16-bit: 1 images, scaled to 8 bits",
        "tiny classes, fewer than 5 images in train: few",
        "unequal classes: 1 to 90 images in train",
        "test has no image of c, few, many",
        "cannot be used: train/a/cut.png: damaged",
        "cannot be used: train/a/empty.png: empty",
        "cannot be used: train/b/text.jpg: not an image",
        "cannot be used: test/c/bomb.png: more than 100 megapixels",
    ):
        assert line in text, line
    assert report.fatal == ["4 files cannot be used; --skip-bad-files leaves them out"]
    assert said(data, tmp_path / "cache", skip_bad_files=True).fatal == []


def test_what_training_would_refuse_is_fatal(tmp_path):
    folder(tmp_path / "d" / "train", ["a", "b"], count=1)
    folder(tmp_path / "d" / "val", ["a", "z"], count=1, start=50)
    report = problems.problems(listing_of(tmp_path / "d")[0])
    assert len(report.fatal) == 1
    assert "val has classes that are not in train (z)" in report.fatal[0]
    assert report.fatal[0] in report.lines
    assert problems.problems(Listing((), (Bad("x", "a", "train", "empty"),))).fatal


@pytest.mark.parametrize("classes", [1000, 20])
def test_many_classes_are_cut_and_counted(classes):
    rows = [
        Row(f"{number:04}/1", f"{number:064}", 8, 8, "L", f"{number:04}", "train")
        for number in range(classes)
    ]
    lines = problems.problems(Listing.of(rows)).lines
    assert lines[0].startswith(f"{classes:,} classes: 0000, 0001, ")
    assert all(len(line) < 400 for line in lines)
    assert ("980 classes more" in lines[1]) == (classes == 1000)
