"""Own images of any side train, are explained and resumed, not only those of 32 pixels."""

import json

import numpy as np
import pytest
from made_images import folder

from fasttrain.cli import main as cli
from fasttrain.explain.subject import open_run

NAMES = ["ant", "bee", "cow"]
WORDS = "--recipe sprint --widths 8,8,8 --epochs 1 --batch-size 8 --lr 0.05 --device cpu --amp off"


@pytest.fixture(autouse=True)
def _alone(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for start, split in enumerate(("train", "val", "test")):
        folder(tmp_path / "d" / split, NAMES, count=8, start=100 * start, height=70, width=66)


def train(root, *words):
    return cli.main(["--dataset", str(root / "d"), *WORDS.split(), *words])


@pytest.mark.parametrize("loader", ["resident", "dali"])
@pytest.mark.parametrize("side", [28, 64])
def test_own_images_of_a_side_train(side, loader, tmp_path):
    out = tmp_path / "run"
    assert train(tmp_path, "--side", str(side), "--loader", loader, "--out", str(out)) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["data"]["side"] == side
    assert 0 <= summary["test_accuracy"] <= 1


def test_auto_takes_a_side_by_the_median(tmp_path):
    assert train(tmp_path, "--out", str(tmp_path / "run")) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["side"] == 64


@pytest.mark.parametrize("side", [28, 64])
def test_a_run_of_a_side_is_explained(side, tmp_path, monkeypatch):
    from fasttrain.explain import explain

    out = tmp_path / "run"
    assert train(tmp_path, "--side", str(side), "--out", str(out)) == 0
    subject = open_run(out, device="cpu")
    found = explain.gradcam_maps(subject, np.arange(4), np.zeros(4, int))
    assert found.shape == (4, side, side)
    explain.explain(subject, out)
    assert np.load(out / "analysis.npz")["images"].shape[1:3] == (side, side)


@pytest.mark.parametrize("side", [28, 48])
def test_synthetic_images_of_a_side_train(side, tmp_path):
    words = f"--dataset synthetic --side {side} --train-limit 32 --test-limit 20"
    assert cli.main([*WORDS.split(), *words.split(), "--out", str(tmp_path / "run")]) == 0
