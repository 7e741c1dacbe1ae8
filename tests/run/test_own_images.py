"""A run on own images goes on bitwise where it stood, and only on the images it began with."""

import json
import shutil

import numpy as np
import pytest
from made_images import folder, save
from tiny_runs import SMALL, end, same

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.data import own
from fasttrain.errors import DataError, Stopped
from fasttrain.explain.subject import open_run
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import folders
from fasttrain.storage import checkpoint
from tests.run.test_train import Interrupting

NAMES = ["ant", "bee", "cow"]
FIELDS = {**SMALL, "train_limit": None, "test_limit": None, "batch_size": 8, "amp": "off"}


@pytest.fixture(autouse=True)
def _alone(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place, (split, count) in enumerate((("train", 10), ("val", 4), ("test", 4))):
        folder(tmp_path / "d" / split, NAMES, count=count, start=100 * place)


def recipe(root, **changes):
    return Recipe(**{**FIELDS, "dataset": root / "d", "side": 32, **changes})


@pytest.mark.parametrize("at", [2, 4, 6])  # within an epoch, in its evaluation, in the next
def test_a_killed_run_goes_on_bitwise(tmp_path, at):
    fasttrain.train(recipe(tmp_path), out=tmp_path / "whole")
    with pytest.raises(Stopped):
        fasttrain.train(recipe(tmp_path), out=tmp_path / "a", display=Interrupting(at))
    fasttrain.train(recipe(tmp_path), continued=tmp_path / "a")
    whole = end(tmp_path / "whole")
    assert same(end(tmp_path / "a"), whole)
    summaries = [folders._object(tmp_path / run / "summary.json") for run in ("a", "whole")]
    assert summaries[0]["test_loss"] == summaries[1]["test_loss"]
    fasttrain.train(recipe(tmp_path, seed=1), out=tmp_path / "b")
    assert not same(end(tmp_path / "b"), whole)


@pytest.mark.parametrize("balance", ["loss", "sample"])
@pytest.mark.parametrize("monitor", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("at", [2, 8])  # within the first epoch and within the second
def test_a_killed_run_on_classes_of_unequal_sizes_goes_on_bitwise(tmp_path, balance, monitor, at):
    folder(tmp_path / "d" / "train", ["ant"], count=25, start=600)
    asked = {"balance": balance, "monitor": monitor, "scheduler": "plateau", "patience": 0}
    fasttrain.train(recipe(tmp_path, **asked), out=tmp_path / "whole")
    with pytest.raises(Stopped):
        fasttrain.train(recipe(tmp_path, **asked), out=tmp_path / "a", display=Interrupting(at))
    fasttrain.train(recipe(tmp_path, **asked), continued=tmp_path / "a")
    whole = end(tmp_path / "whole")
    assert same(end(tmp_path / "a"), whole)
    rows = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("a", "whole")]
    means = [[json.loads(line)["macro_f1"] for line in lines] for lines in rows]
    assert means[0] == means[1]
    fasttrain.train(recipe(tmp_path, **{**asked, "balance": "none"}), out=tmp_path / "b")
    assert not same(end(tmp_path / "b")["state"], whole["state"]), "and the balance counts"


def stopped(root):
    with pytest.raises(Stopped):
        fasttrain.train(recipe(root), out=root / "a", display=Interrupting(4))
    return root / "a"


def add(data):
    save(data / "train" / "ant" / "new.png", 77)


def remove(data):
    (data / "train" / "ant" / "3.png").unlink()


def move(data):
    shutil.move(data / "train" / "ant" / "3.png", data / "train" / "bee" / "33.png")


def alter(data):
    save(data / "val" / "cow" / "0.png", 78)


def new_class(data):
    folder(data / "train", ["dog"], count=3, start=800)


@pytest.mark.parametrize("change", [add, remove, move, alter, new_class])
def test_other_images_are_refused_and_the_same_elsewhere_taken(change, tmp_path, capsys):
    run = stopped(tmp_path)
    shutil.copytree(tmp_path / "d", tmp_path / "other")
    change(tmp_path / "other")
    before = checkpoint.load(run / "checkpoints" / "last.pt")["progress"]
    words = ["--resume", str(run), "--dataset"]
    assert cli.main([*words, str(tmp_path / "other")]) == 4
    said = capsys.readouterr().err
    assert "not the images that the run was trained on" in said
    assert said.count("\n") == 1
    assert checkpoint.load(run / "checkpoints" / "last.pt")["progress"] == before
    shutil.move(tmp_path / "d", tmp_path / "moved")
    assert cli.main([*words, str(tmp_path / "moved")]) == 0
    assert folders.is_complete(run)


def test_another_name_is_another_data_set(tmp_path, capsys):
    run = stopped(tmp_path)
    assert cli.main(["--resume", str(run), "--dataset", "synthetic"]) == 2
    assert "--dataset (synthetic): the run to be resumed has" in capsys.readouterr().err


def test_pixels_too_many_to_verify_at_once_are_verified_before_a_checkpoint_counts(
    tmp_path, monkeypatch
):
    from fasttrain.data import making

    monkeypatch.setattr(making, "AT_ONCE", 0)
    fasttrain.train(recipe(tmp_path), out=tmp_path / "a")
    pixels = next(own.where().glob("*/pixels.u8"))
    content = bytearray(pixels.read_bytes())
    content[5] ^= 1
    pixels.write_bytes(content)
    with pytest.raises(DataError, match="damaged since they were made"):
        fasttrain.train(recipe(tmp_path), out=tmp_path / "b")
    assert not list((tmp_path / "b").glob("checkpoints/*.pt"))
    fasttrain.train(recipe(tmp_path), out=tmp_path / "c")  # made anew
    assert same(end(tmp_path / "c"), end(tmp_path / "a"))


@pytest.mark.parametrize("lr", [0.05, 0.2])
def test_the_test_loss_is_that_of_the_best_checkpoint(lr, tmp_path):
    """Not of the last one: here the best epoch comes before it."""
    from fasttrain.explain import explain

    fasttrain.train(recipe(tmp_path, epochs=4, lr=lr), out=tmp_path / "a")
    summary = folders._object(tmp_path / "a" / "summary.json")
    subject = open_run(tmp_path / "a", device="cpu")
    losses = []
    for name in ("best", "last"):
        state = checkpoint.load(tmp_path / "a" / "checkpoints" / f"{name}.pt")
        subject.model.load_state_dict(state["model"] if name == "best" else state["step"]["model"])
        found = explain.predict(subject)
        losses.append(-np.log(found.probabilities[np.arange(12), found.labels]).mean())
    assert summary["test_loss"] == pytest.approx(losses[0], rel=1e-4)
    assert summary["best_epoch"] < 4
    assert summary["test_loss"] != pytest.approx(losses[1], rel=1e-4)
