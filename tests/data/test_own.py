"""From a path to arrays in one call, as a person would."""

import shutil
from collections import Counter

import numpy as np
import pytest
from made_images import folder, picture, save

from fasttrain.data import own
from fasttrain.errors import DataError, UsageError
from tests.data.test_prepare import spoil


def test_a_folder_of_classes_becomes_train_and_val(tmp_path):
    folder(tmp_path / "d", ["cat", "dog"], count=20)
    said = []
    made, roles = own.load(tmp_path / "d", side=20, folder=tmp_path / "cache", log=said.append)
    assert (roles.chooses, roles.final) == ("val", "val")
    for split in ("train", "val"):
        images, labels = made.split(split)
        for row, image, label in zip(made.listing.of_split(split), images, labels, strict=True):
            number = int(row.path.split("/")[1].removesuffix(".png"))
            assert label == (row.label == "dog")
            assert (image == np.asarray(picture(number + 1000 * label))).all()
    assert "2 classes, images: train 40" in said[0]


def test_copies_of_the_same_data_in_every_layout_give_the_same_pixels_and_classes(tmp_path):
    data = folder(tmp_path / "d", ["a", "b"], count=8)
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    lines = ["file_name,label", *(f"{name},{name[0]}" for name in names)]
    (data / "t.csv").write_text("\n".join(lines))
    arrays = np.stack([np.asarray(picture(1000 * (n[0] == "b") + int(n[2:-4]))) for n in names])
    labels = np.array([name[0] for name in names])
    np.savez(tmp_path / "m.npz", train_images=arrays, train_labels=labels)
    made = [
        own.load(path, side=20, folder=tmp_path / "cache").prepared
        for path in (data, data / "t.csv", tmp_path / "m.npz")
    ]
    assert {one.listing.classes for one in made} == {("a", "b")}
    pixels = [sorted(image.tobytes() for image in one.images) for one in made]
    assert pixels[0] == pixels[1] == pixels[2]
    assert made[0].folder == made[1].folder  # the same files, so the same array


def test_limits_are_drawn_per_class_before_anything_is_decoded(tmp_path):
    folder(tmp_path / "d" / "train", ["a", "b", "c"], count=20)
    folder(tmp_path / "d" / "test", ["a", "b", "c"], count=10, start=500)
    made, _ = own.load(
        tmp_path / "d", side=8, folder=tmp_path / "cache", train_limit=12, test_limit=6
    )
    assert len(made.images) == 18
    for split, each in (("train", 4), ("test", 2)):
        assert Counter(made.split(split).labels.tolist()) == dict.fromkeys(range(3), each)
    with pytest.raises(UsageError, match="3 classes"):
        own.load(tmp_path / "d", folder=tmp_path / "cache", train_limit=2)


def test_bad_files_are_all_named_or_skipped(tmp_path):
    data = tmp_path / "d"
    folder(data / "train", ["a", "b", "c"], count=6)
    folder(data / "test", ["a", "b", "c"], count=2, start=500)
    expected = spoil(data)
    with pytest.raises(DataError) as caught:
        own.load(data, side=8, folder=tmp_path / "cache")
    assert all(name in str(caught.value) for name in expected)
    made, _ = own.load(data, side=8, folder=tmp_path / "cache", skip_bad_files=True)
    assert {bad.path for bad in made.listing.bad} == set(expected)


def test_a_class_that_is_lost_with_its_bad_files_is_refused_in_the_other_splits(tmp_path):
    data = tmp_path / "d"
    folder(data / "train", ["a", "b", "c"], count=2)
    folder(data / "test", ["a", "b", "c"], count=2, start=500)
    for number in range(2):
        path = save(data / "train/c" / f"{number}.png", number, height=60, width=60)
        path.write_bytes(path.read_bytes()[: 3000 + number])
    with pytest.raises(DataError, match=r"test has classes that are not in train \(c\)"):
        own.load(data, side=8, folder=tmp_path / "cache", skip_bad_files=True)


def test_only_bad_files_are_named(tmp_path):
    (tmp_path / "d" / "a").mkdir(parents=True)
    (tmp_path / "d" / "a" / "1.png").write_text("x")
    with pytest.raises(DataError, match=r"a/1\.png \(not an image"):
        own.load(tmp_path / "d", folder=tmp_path / "cache")


def test_the_cache_is_the_users_unless_another_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder(tmp_path / "d", ["a", "b"])
    made, _ = own.load(tmp_path / "d", side=8)
    assert made.folder.parent == own.where()
    shutil.rmtree(tmp_path / "home")


@pytest.mark.parametrize("limit", [None, 9])
def test_the_first_start_chooses_as_every_later_one(limit, tmp_path):
    """Which files are damaged is known only once they are decoded, after train was parted."""
    data = folder(tmp_path / "d", ["a", "b", "c"], count=6, height=60, width=60)
    for name in ("a/0", "a/1", "b/2", "c/3", "c/4", "c/5"):
        path = data / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-3000])
    options = {"side": 8, "skip_bad_files": True, "folder": tmp_path / "cache"}
    options["train_limit"] = limit
    first, roles = own.load(data, **options)
    again, later = own.load(data, **options)
    assert first.listing.digest == again.listing.digest
    assert roles == later
    assert (first.images == again.images).all()
    for split in ("train", "val"):
        assert set(first.split(split).labels.tolist()) == {0, 1, 2}
