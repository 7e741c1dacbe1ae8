"""A person's own images from the command line: every layout trains, every fault is said at once."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from made_images import folder, picture

from fasttrain.cli import main as cli
from fasttrain.data import listing_file, synthetic
from fasttrain.run import finish, folders
from fasttrain.run.finish import explain_run
from fasttrain.storage import checkpoint
from tests.data.test_prepare import spoil

NAMES = ["ant", "bee", "cow"]
WORDS = "--side 32 --epochs 2 --batch-size 8 --lr 0.05 --device cpu --amp off --loader resident"


@pytest.fixture(autouse=True)
def _alone(tiny, tmp_path, monkeypatch):
    """Tiny networks, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def train(data, out, *words):
    return cli.main(["--dataset", str(data), "--out", str(out), *WORDS.split(), *words])


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


def class_folders(root):
    return folder(root / "d", NAMES, count=12)


def split_folders(root):
    for place, (split, count) in enumerate((("train", 12), ("valid", 5), ("test", 4))):
        folder(root / "d" / split, NAMES, count=count, start=100 * place)
    return root / "d"


def table(root):
    data = split_folders(root)
    paths = sorted(path.relative_to(data) for path in data.rglob("*.png"))
    lines = ["file_name,label,split", *(f"{p},{p.parts[1]},{p.parts[0]}" for p in paths)]
    (root / "t.csv").write_text("\n".join(f"{line}" for line in lines).replace("\n", "\nd/", -1))
    return root / "t.csv"


def arrays(root):
    made = {}
    for place, (split, count) in enumerate((("train", 12), ("val", 5), ("test", 4))):
        labels = np.repeat(np.arange(3), count)
        images = [np.asarray(picture(1000 * place + n)) for n in range(len(labels))]
        made |= {f"{split}_images": np.stack(images), f"{split}_labels": labels[:, None]}
    np.savez(root / "m.npz", **made)
    return root / "m.npz"


LAYOUTS = {
    "class folders": (class_folders, None, NAMES),
    "split folders": (split_folders, {"train": 36, "val": 15, "test": 12}, NAMES),
    "a table": (table, {"train": 36, "val": 15, "test": 12}, NAMES),
    "arrays": (arrays, {"train": 36, "val": 15, "test": 12}, ["0", "1", "2"]),
}


@pytest.mark.parametrize(("make", "counts", "names"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_trains(make, counts, names, tmp_path, capsys):
    assert train(make(tmp_path), tmp_path / "run") == 0
    said = capsys.readouterr().out.splitlines()
    assert "3 classes" in said[0]
    run, summary = tmp_path / "run", summary_of(tmp_path / "run")
    assert json.loads((run / "classes.json").read_text()) == names
    assert summary["data"]["classes"] == names
    assert summary["chosen_by"] == "val"
    images = summary["images"]
    rows = listing_file.read(run / "listing.csv")
    assert {split: len(rows.of_split(split)) for split in rows.splits} == images
    if counts is None:
        assert set(images) == {"train", "val"}
        assert sum(images.values()) == 36
        assert "test_accuracy" not in summary
    else:
        assert images == counts
        assert 0 <= summary["test_accuracy"] <= 1
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert "val_accuracy" in line
    assert "test_accuracy" not in line


def test_names_mean_and_deviation_stand_with_the_weights(tmp_path):
    assert train(split_folders(tmp_path), tmp_path / "run") == 0
    found = listing_file.read(tmp_path / "run" / "listing.csv")
    for name in ("best", "last"):
        kept = checkpoint.load(tmp_path / "run" / "checkpoints" / f"{name}.pt")["data"]
        assert kept["classes"] == NAMES
        assert kept["listing"] == found.digest
        assert 0.4 < kept["mean"][0] < 0.6 > kept["std"][0] > 0.1
    assert summary_of(tmp_path / "run")["data"]["mean"] == kept["mean"]


def test_the_test_images_choose_nothing_and_are_evaluated_once(tmp_path):
    """Other test images change the test accuracy and not one bit of what is chosen."""
    data = split_folders(tmp_path)
    assert train(data, tmp_path / "a") == 0
    shutil.rmtree(data / "test")
    folder(data / "test", NAMES, count=7, start=700)
    assert train(data, tmp_path / "b") == 0
    best = [checkpoint.load(tmp_path / run / "checkpoints" / "best.pt") for run in "ab"]
    assert best[0]["progress"] == best[1]["progress"]
    assert all(torch.equal(x, best[1]["model"][name]) for name, x in best[0]["model"].items())
    a, b = (summary_of(tmp_path / run) for run in "ab")
    assert a["best_val_accuracy"] == b["best_val_accuracy"]
    assert (a["images"]["test"], b["images"]["test"]) == (12, 21)
    assert a["test_loss"] != b["test_loss"]
    shutil.rmtree(data / "valid")
    folder(data / "valid", NAMES, count=5, start=900)
    assert train(data, tmp_path / "c") == 0
    assert summary_of(tmp_path / "c")["final_val_accuracy"] != pytest.approx(-1)
    rows = [(tmp_path / run / "metrics.jsonl").read_text().splitlines()[0] for run in "bc"]
    losses = [json.loads(row)["val_loss"] for row in rows]
    assert losses[0] != losses[1], "but val images do"


@pytest.mark.parametrize("monitor", ["balanced_accuracy", "macro_f1", "loss", "accuracy"])
def test_what_is_monitored_chooses_the_best_epoch(monitor, tmp_path, capsys):
    data = tmp_path / "d"
    for split, start in (("train", 0), ("test", 500)):
        for place, (name, count) in enumerate((("a", 20), ("b", 6), ("c", 2))):
            folder(data / split, [name], count=count, start=start + 1000 * place)
    assert train(data, tmp_path / "run", "--epochs", "6", "--monitor", monitor) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    name = {"loss": "test_loss", "accuracy": "test_accuracy"}.get(monitor, monitor)
    sign = -1 if monitor == "loss" else 1
    best = max(rows, key=lambda row: sign * row[name])
    assert summary_of(tmp_path / "run")["best_epoch"] == best["epoch"]
    assert summary_of(tmp_path / "run")["chosen_by"] == "test"
    said = capsys.readouterr().out.splitlines()[-1]
    by = {"macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy"}.get(monitor, monitor)
    assert (f"the best by its {by}" in said) == (monitor != "accuracy")
    for row in rows:  # of own images in any case: their classes may be of any sizes
        assert 0 <= row["macro_f1"] <= 1
        assert 0 <= row["balanced_accuracy"] <= 1
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")
    assert state["progress"][0] == best["epoch"]


def test_all_faults_are_said_at_once_and_exit_4(tmp_path, capsys):
    data = tmp_path / "d"
    folder(data / "train", "abc", count=6)
    folder(data / "test", "abc", count=2, start=500)
    (data / "train" / "empty").mkdir()
    (data / "train" / "notes.txt").write_text("x")
    shutil.copy(data / "train/a/0.png", data / "test/a/copy.png")
    shutil.copy(data / "train/a/1.png", data / "train/b/copy.png")
    expected = spoil(data)
    assert cli.main(["data", "--dataset", str(data), "--side", "32"]) == 4
    out, err = capsys.readouterr()
    for words in (*expected, "empty", "identical files in different splits", "different labels"):
        assert words in out, words
    for words in ("train: ", "test: ", "sizes: ", "modes: "):
        assert words in out, words
    assert err.startswith("fasttrain: error: --dataset")
    assert train(data, tmp_path / "run") == 4
    err = capsys.readouterr().err
    assert all(name in err for name in expected)
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert cli.main(["data", "--dataset", str(data), "--side", "32", "--skip-bad-files"]) == 0
    assert train(data, tmp_path / "run", "--skip-bad-files") == 0
    assert "4 files cannot be used and are left out: " in capsys.readouterr().out
    with open(tmp_path / "run" / "listing.csv", newline="") as file:
        bad = {row["path"] for row in csv.DictReader(file) if row["problem"]}
    assert bad == set(expected)


def unknown_class(data):
    folder(data / "test", ["dog"], count=1, start=900)


def one_class(data):
    for name in NAMES[1:]:
        for split in ("train", "test"):
            shutil.rmtree(data / split / name)


def no_train(data):
    for path in (data / "train").rglob("*.png"):
        path.unlink()


FATAL = {
    "a class that train has not": (unknown_class, "dog"),
    "one class": (one_class, "only one class"),
    "empty train": (no_train, "no usable image to train on"),
}


@pytest.mark.parametrize(("harm", "said"), FATAL.values(), ids=FATAL)
def test_what_cannot_be_trained_on_is_exit_4_and_leaves_no_run(harm, said, tmp_path, capsys):
    folder(tmp_path / "d" / "train", NAMES, count=6)
    folder(tmp_path / "d" / "test", NAMES, count=2, start=500)
    harm(tmp_path / "d")
    assert train(tmp_path / "d", tmp_path / "run") == 4
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["data", "--dataset", str(tmp_path / "d"), "--side", "32"]) == 4
    assert said in "".join(capsys.readouterr())


def test_a_missing_class_of_another_split_is_a_note(tmp_path, capsys):
    folder(tmp_path / "d" / "train", NAMES, count=6)
    folder(tmp_path / "d" / "test", NAMES[:2], count=3, start=500)
    assert train(tmp_path / "d", tmp_path / "run") == 0
    assert "test has no image of cow" in capsys.readouterr().out


MISSPELT = {
    "cifar-10": "cifar10",
    "cifar_100": "cifar100",
    "minst": "mnist",
    "syntetic": "synthetic",
}


@pytest.mark.parametrize(("given", "meant"), MISSPELT.items())
def test_a_misspelt_name_is_exit_2_and_a_path_that_is_missing_exit_4(given, meant, capsys):
    assert cli.main(["--dataset", given]) == 2
    assert f"Did you mean {meant}?" in capsys.readouterr().err
    assert cli.main(["--dataset", "photographs"]) == 4
    assert "neither the name of a data set nor a path" in capsys.readouterr().err


REFUSED = {
    "no path": (["--dataset="], "--dataset (): must be a non-empty line of text"),
    "a side that the set has not": (["--dataset=synthetic", "--side=7"], "must be a whole number"),
    "the experiment's statistics": (["--statistics=reference"], "exists only for CIFAR-10"),
    "fewer images than classes": (["--train-limit=2"], "3 classes"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_own_images_is_exit_2(words, said, tmp_path, capsys):
    assert train(class_folders(tmp_path), tmp_path / "run", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dataset", ["cifar10", "mnist", "photos"])
@pytest.mark.parametrize("command", [[], ["data"], ["find-lr"]])
def test_a_number_of_classes_is_of_the_synthetic_images_alone(dataset, command, tmp_path, capsys):
    assert cli.main([*command, "--dataset", dataset, "--classes", "7"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fasttrain: error: --classes (7): only for --dataset synthetic; ")
    assert said.count("\n") == 1


def test_synthetic_images_of_any_side_and_number_of_classes_train_and_are_described(
    tmp_path, monkeypatch, capsys
):
    asked = ["--dataset", "synthetic", "--classes", "7", "--side", "24"]
    load = synthetic.load
    with monkeypatch.context() as patches:  # not of 60,000 images
        patches.setattr(synthetic, "load", lambda train, test, **options: load(700, 14, **options))
        assert cli.main(["data", *asked]) == 0
    said = capsys.readouterr().out
    assert "700 images of 24 x 24, " in said
    assert "7: texture 0, texture 1, " in said
    few = ["--train-limit", "28", "--test-limit", "14", *WORDS.split()[2:]]
    assert cli.main([*asked, *few, "--out", str(tmp_path / "run")]) == 0
    summary = summary_of(tmp_path / "run")
    assert summary["data"]["classes"][6] == "texture 6"
    assert (len(summary["data"]["classes"]), summary["data"]["side"]) == (7, 24)
    kept = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")
    assert kept["model"]["fc.weight"].shape[0] == 7
    assert cli.main(["--resume", str(tmp_path / "run"), "--classes", "8"]) == 2


def test_a_path_is_found_again_from_another_folder(tmp_path, monkeypatch):
    class_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert train("d", "run") == 0
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert cli.main(["--resume", str(tmp_path / "run")]) == 0
    assert folders.read_recipe(tmp_path / "run")["dataset"] == str(tmp_path / "d")


def test_a_named_cache_is_used_by_every_command_and_binds_no_run(tmp_path, monkeypatch, capsys):
    data, named = split_folders(tmp_path), tmp_path / "named"
    monkeypatch.chdir(tmp_path)
    assert train(data, "run", "--cache-dir", "named") == 0
    assert "images of 32 x 32" in capsys.readouterr().out
    pixels = [path.relative_to(named) for path in named.rglob("pixels.u8")]
    assert len(pixels) == 1
    assert pixels[0].parts[0] == "images"
    assert folders.read_recipe(tmp_path / "run")["cache_dir"] == str(named)
    words = ["data", "--dataset", str(data), "--side", "32", "--cache-dir", str(named)]
    assert cli.main(words) == 0
    assert "preparing" not in capsys.readouterr().out, "it is there already"
    seen = []
    monkeypatch.setattr(finish, "explain_run", explain_run)
    monkeypatch.setattr(finish.explain, "explain", lambda subject, *a, **o: seen.append(subject))
    monkeypatch.setattr(finish, "draw_report", lambda *args, **options: None)
    for asked, folder_ in (([], named), (["--cache-dir", "other"], tmp_path / "other")):
        assert cli.main(["explain", "run", "--device", "cpu", *asked]) == 0
        assert list(folder_.rglob("pixels.u8"))
        assert len(seen.pop().analysed.labels) == 12
    assert not (tmp_path / "cache").exists(), "nothing in the user's cache"
    again = ["--resume", "run", "--epochs", "3", "--override", "--cache-dir"]
    assert cli.main([*again, str(tmp_path / "third")]) == 0
    assert folders.read_recipe(tmp_path / "run")["cache_dir"] == str(tmp_path / "third")


@pytest.mark.parametrize("name", ["taken", "taken/below", "n" * 300])
def test_a_cache_that_cannot_be_is_one_line_that_names_the_flag(name, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    data = class_folders(tmp_path)
    assert train(data, tmp_path / "run", "--cache-dir", str(tmp_path / name)) == 6
    for dataset in ("mnist", "cifar10"):
        words = ["data", "--dataset", dataset, "--cache-dir", str(tmp_path / name)]
        assert cli.main(words) == 4
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("fasttrain: error: ")
        assert "name another folder with --cache-dir" in line
        assert "--out" not in line
    assert not (tmp_path / "run").exists()


def test_a_replaced_run_leaves_no_listing_behind(tmp_path):
    assert train(class_folders(tmp_path), tmp_path / "run") == 0
    there = {path.name for path in folders.own_files(tmp_path / "run")}
    assert {"listing.csv", "classes.json"} <= there
    words = "--dataset synthetic --train-limit 20 --test-limit 20 --overwrite"
    assert cli.main([*words.split(), "--out", str(tmp_path / "run"), *WORDS.split()]) == 0
    assert not (tmp_path / "run" / "listing.csv").exists()
    assert not (tmp_path / "run" / "classes.json").exists()
