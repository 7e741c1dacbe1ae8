"""What --dataset names: one value, whichever it is, and limits drawn per class."""

from collections import Counter

import numpy as np
import pytest

from fasttrain.cli.values import parse
from fasttrain.data import CLASSES, Split, cifar10, cifar100, mnist, sets, synthetic
from fasttrain.errors import DataError, UsageError
from fasttrain.recipe import datasets
from fasttrain.recipe.recipe import Recipe


def split_of(count, classes, *, side=4):
    labels = np.sort(np.arange(count) % classes)  # the first images are all of one class
    images = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
    return Split(images, labels)


@pytest.mark.parametrize(("count", "classes"), [(100, 10), (30, 10), (250, 100), (7, 3)])
def test_a_limit_has_each_classs_share_and_is_the_same_at_every_call(count, classes):
    split = split_of(1000 * classes // 10, classes)
    found = sets.limited(split, count)
    counts = Counter(found.labels.tolist())
    assert sum(counts.values()) == count
    assert max(counts.values()) - min(counts.get(c, 0) for c in range(classes)) <= 1
    again = sets.limited(split, count)
    assert (found.images == again.images).all()
    assert (np.diff(found.labels) >= 0).all(), "in the order of the data set"


def test_no_limit_and_a_large_one_copy_nothing():
    split = split_of(20, 2)
    assert sets.limited(split, None) is split
    assert sets.limited(split, 20) is split
    assert sets.limited(split, 10**9) is split


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_name_gives_one_kind_of_value(name, monkeypatch):
    sides = {"mnist": 28}
    for module, classes in ((cifar10, 10), (cifar100, 100), (mnist, 10)):
        side = 28 if module is mnist else 32
        halves = split_of(200, classes, side=side), split_of(100, classes, side=side)
        monkeypatch.setattr(module, "load", lambda *a, halves=halves, **o: halves)
    data = sets.load(name, train_limit=100, test_limit=50)
    assert (len(data.train.labels), len(data.test.labels), data.val) == (100, 50, None)
    assert data.side == sides.get(name, 32)
    assert len(data.classes) == (100 if name == "cifar100" else 10)
    assert (data.name, data.listing, data.chooses) == (name, None, "test")
    assert data.held_out is data.test
    if name in ("cifar100", "mnist"):
        lines = sets.describe(name, None)
        assert lines["classes"].startswith(str(len(data.classes)))
        assert "200 images" in lines["train"]
    if name != "synthetic":
        with pytest.raises(UsageError, match="--side"):
            sets.load(name, side=48)


@pytest.mark.parametrize("side", [8, 28, 64])
def test_synthetic_images_have_any_side(side):
    data = sets.load("synthetic", side=side, train_limit=30, test_limit=20)
    assert data.train.images.shape == (30, side, side, 3)
    assert set(Counter(data.train.labels.tolist()).values()) == {3}


@pytest.mark.parametrize(("classes", "side"), [(2, 32), (10, 48), (101, 16)])
def test_synthetic_images_have_any_number_of_classes_with_names_in_their_order(classes, side):
    data = sets.load(
        "synthetic", classes=classes, side=side, train_limit=2 * classes, test_limit=classes
    )
    assert data.train.images.shape == (2 * classes, side, side, 3)
    assert Counter(data.train.labels.tolist()) == dict.fromkeys(range(classes), 2)
    assert len(data.classes) == classes
    assert list(data.classes) == sorted(set(data.classes))
    if classes == 10:
        assert data.classes == CLASSES, "those of the runs of before"


def test_the_experiments_deviation_is_of_cifar10_alone():
    assert sets.load("synthetic", train_limit=10, test_limit=10).std == cifar10.STD
    reference = sets.load("synthetic", train_limit=10, test_limit=10, reference=True)
    assert reference.std == cifar10.REFERENCE_STD
    with pytest.raises(UsageError, match="--statistics"):
        sets.load("mnist", reference=True)


def test_a_path_that_is_no_name_says_what_it_could_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="Did you mean cifar100"):
        sets.load("cifar-100")
    with pytest.raises(DataError, match="neither the name of a data set"):
        sets.load("photographs")
    (tmp_path / "mnst").mkdir()
    datasets.refuse_near_miss("mnst")  # it exists
    assert parse("dataset", "mnst") == str(tmp_path / "mnst")
    assert parse("dataset", "mnist") == "mnist"


def test_recipes_of_the_first_release_load_with_their_limits():
    saved = {"recipe": "resnet18", "epochs": 2, "dataset": "synthetic", "train_limit": 5}
    found = Recipe.saved({**saved, "test_limit": 1})
    assert (found.train_limit, found.test_limit, found.side, found.monitor) == (
        5,
        1,
        "auto",
        "accuracy",
    )
    assert len(sets.load("synthetic", train_limit=5, test_limit=1).train.labels) == 5


def test_the_synthetic_images_are_those_of_the_first_release_without_a_limit():
    train, _ = synthetic.load(1000, 10)
    data = sets.load("synthetic", train_limit=1000, test_limit=10)
    assert (data.train.images == train.images).all()
