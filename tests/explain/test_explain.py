"""The explanation of a trained run, on the real network and a few synthetic images."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import small

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.errors import Stopped, UsageError
from fasttrain.explain import explain
from fasttrain.explain.subject import open_run
from fasttrain.recipe.recipe import Recipe
from fasttrain.report import figures
from fasttrain.run import finish
from fasttrain.run.finish import explain_run
from fasttrain.storage import checkpoint
from tests.run.test_train import SMALL, Interrupting

WORDS = "--dataset synthetic --train-limit 48 --test-limit 32 --batch-size 16 --epochs 1 --lr 0.1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "trained"
    fasttrain.train(Recipe(**{**SMALL, "epochs": 1, "test_limit": 64}), out=path)
    return path


def read(path, name):
    return json.loads((path / name).read_text())


def test_a_training_ends_with_its_whole_explanation(trained):
    summary = read(trained, "summary.json")
    assert summary["model_parameters"] == 11_173_962
    assert 0 < summary["mfu"] < 1.5
    classes = read(trained, "class_accuracy.json")
    right = sum(row["correct"] for row in classes["classes"])
    assert sum(row["count"] for row in classes["classes"]) == 64
    assert right / 64 == pytest.approx(summary["best_test_accuracy"], abs=1 / 64)
    assert np.trace(classes["confusion"]) == right
    wrong = read(trained, "misclassified.json")
    assert wrong["mistakes"] == 64 - right
    assert len(wrong["images"]) == min(25, 64 - right)
    assert wrong["rule"] == "most confident mistakes first"
    assert {"index", "true", "predicted", "confidence"} == set(wrong["images"][0])
    arrays = np.load(trained / "analysis.npz", allow_pickle=False)
    assert arrays["images"].shape == (len(wrong["images"]), 32, 32, 3)
    for name in ("predicted_maps", "true_maps"):
        assert arrays[name].shape == (len(wrong["images"]), 32, 32)
        assert arrays[name].min() >= 0
        assert arrays[name].max() <= 1
    assert right / 64 < 0.8
    assert wrong["label_errors"] == [], "a network that is mostly wrong contradicts no label"
    page = (trained / "report.html").read_text()
    assert len(page.encode()) < 5_000_000
    assert 'id="labels"' not in page
    names = [row["name"] for row in classes["classes"]]
    assert len(arrays["sample_labels"]) == len(arrays["sample_originals"])
    for label in arrays["sample_labels"]:
        assert f"<figcaption>{names[label]}</figcaption>" in page


def test_the_listed_mistakes_are_the_networks_own(trained):
    subject = open_run(trained, device="cpu")
    wrong = read(trained, "misclassified.json")["images"]
    with torch.no_grad():
        for row in wrong[:3]:
            image = explain.prepare(subject, np.array([row["index"]]))
            probabilities = subject.model(image).softmax(1)[0]
            guess = int(probabilities.argmax())
            assert fasttrain.data.CLASSES[guess] == row["predicted"] != row["true"]
            assert float(probabilities.max()) == pytest.approx(row["confidence"], abs=0.05)


def test_samples_stand_beside_their_originals(trained):
    arrays = np.load(trained / "analysis.npz", allow_pickle=False)
    assert arrays["sample_originals"].shape == arrays["sample_augmented"].shape
    assert len(arrays["sample_originals"]) == 16
    assert (arrays["sample_originals"] != arrays["sample_augmented"]).any(axis=(1, 2, 3)).all()


def test_a_run_from_another_machine_is_explained_here(trained, tmp_path, capsys):
    other = tmp_path / "copied"
    shutil.copytree(trained, other)
    state = checkpoint.load(other / "checkpoints" / "best.pt")
    state["recipe"]["device"] = "cuda:7"  # as a GPU-trained run says
    checkpoint.save(other / "checkpoints" / "best.pt", state)
    (other / "class_accuracy.json").unlink()
    assert cli.main(["explain", str(other), "--sample", "random"]) == 0
    assert read(other, "misclassified.json")["rule"] == "random, seed 0"
    assert (other / "class_accuracy.json").exists()


def test_one_image_is_shown_through_all_four_layers(trained, capsys):
    assert cli.main(["explain", str(trained), "--image", "3"]) == 0
    assert (trained / "figures" / "image-3.png").read_bytes().startswith(b"\x89PNG")
    subject = open_run(trained, device="cpu")
    first, second = explain.layer_maps(subject, 3, [1, 2])
    assert list(first) == ["layer1", "layer2", "layer3", "layer4"]
    assert all(grid.shape == (32, 32) for grid in first.values())
    assert any((first[name] != second[name]).any() for name in first)
    with pytest.raises(UsageError, match=r"--image \(64\): must be from 0 to 63"):
        explain.guess(subject, 64)


def test_the_maps_are_of_the_named_layer_and_file_and_page_say_of_which(
    trained, tmp_path, monkeypatch
):
    other, name = tmp_path / "copied", "layer3.1.conv1"
    shutil.copytree(trained, other)
    monkeypatch.setattr(figures, "draw_all", lambda *args, **options: [])
    assert cli.main(["explain", str(other), "--device", "cpu", "--cam-layer", name]) == 0
    maps = []
    for run, layer in ((trained, "layer4"), (other, name)):
        assert read(run, "misclassified.json")["cam_layer"] == layer
        assert f"Grad-CAM maps of {layer}:" in (run / "report.html").read_text()
        maps.append(np.load(run / "analysis.npz")["true_maps"])
    assert maps[0].shape == maps[1].shape
    assert (maps[0] != maps[1]).any()
    subject = open_run(other, device="cpu", cam_layer="layer2")
    assert list(explain.layer_maps(subject, 3, [1])[0]) == ["layer2"]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("layer5", "no module of that name. Did you mean layer4 or layer3 or layer2?"),
        ("fc", "it puts out (N, 10) and no map (N, C, H, W). Leave it out to see layer4"),
    ],
)
def test_a_layer_without_maps_is_exit_2_and_nothing_is_written(layer, said, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    new = trained.parent / "new"
    for command in (["explain", str(trained)], ["--out", str(new), *WORDS.split()]):
        assert cli.main([*command, "--device", "cpu", "--cam-layer", layer]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"fasttrain: error: --cam-layer ({layer}): ")
        assert said in err
        assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    assert not new.exists()


def test_a_run_of_a_named_layer_ends_and_is_explained_with_it_and_takes_another(tiny, tmp_path):
    """Also with a best checkpoint from before the layer was named."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(finish, "explain_run", explain_run)
        patches.setattr(figures, "draw_all", lambda *args, **options: [])
        with pytest.raises(Stopped):
            fasttrain.train(small(), out=run, display=Interrupting(6))
        assert checkpoint.load(run / "checkpoints" / "best.pt")["progress"] == [1, 0]
        assert cli.main(["--resume", str(run), "--cam-layer", "layer2"]) == 0
        assert read(run, "misclassified.json")["cam_layer"] == "layer2"
        assert read(run, "recipe.json")["cam_layer"] == "layer2"
        patches.setattr(finish, "draw_report", lambda *args, **options: None)
        for asked, layer in (([], "layer2"), (["--cam-layer", "layer1"], "layer1")):
            assert cli.main(["explain", str(run), "--device", "cpu", *asked]) == 0
            assert read(run, "misclassified.json")["cam_layer"] == layer


@pytest.mark.parametrize("command", ["explain", "report"])
def test_a_run_that_is_none_is_one_line(command, tmp_path, capsys):
    assert cli.main([command, str(tmp_path / "nosuch")]) == 2
    (tmp_path / "foreign").mkdir()
    assert cli.main([command, str(tmp_path / "foreign")]) == 5
    assert capsys.readouterr().err.count("\n") == 2


def test_a_damaged_checkpoint_is_one_line(trained, tmp_path, capsys):
    other = tmp_path / "copied"
    shutil.copytree(trained, other)
    path = other / "checkpoints" / "best.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert cli.main(["explain", str(other)]) == 5
    assert capsys.readouterr().err.count("\n") == 1


def test_a_report_is_rebuilt_without_the_checkpoint(trained, tmp_path):
    other = tmp_path / "copied"
    shutil.copytree(trained, other)
    shutil.rmtree(other / "checkpoints")
    (other / "report.html").unlink()
    assert cli.main(["report", str(other)]) == 0
    assert (other / "report.html").exists()


def test_any_image_file_is_drawn_for_its_two_likeliest_classes(trained, tmp_path, capsys):
    file = tmp_path / "a cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)).save(file)
    other = tmp_path / "elsewhere"  # no data set is needed
    shutil.copytree(trained, other)
    seen = []
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(finish.figures, "draw_layers", lambda *a, **named: seen.append((a, named)))
        assert cli.main(["explain", str(other), "--image", str(file), "--device", "cpu"]) == 0
    ((pixels, rows), named), (expected,) = seen[0], fasttrain.load(other).predict(file, top=2)
    assert pixels.shape == (32, 32, 3)
    assert named["path"] == other / "figures" / "image-of-a cat.png"
    for (label, maps), (name, _) in zip(rows, expected.top, strict=True):
        assert label.startswith(f"for {name}, ")
        assert list(maps) == ["layer1", "layer2", "layer3", "layer4"]
    file.write_text("no image")
    assert cli.main(["explain", str(other), "--image", str(file), "--device", "cpu"]) == 4
    assert f"--image ({file}): not an image" in capsys.readouterr().err
    assert cli.main(["explain", str(other), "--image", str(tmp_path / "none.png")]) == 4
    assert "No such file" in capsys.readouterr().err
